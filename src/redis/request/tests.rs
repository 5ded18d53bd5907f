use proptest::prelude::*;
use redis_protocol::resp2::types::BorrowedFrame;

use super::*;

const LIMITS: RequestLimits = RequestLimits { bulk_bytes: 512 * 1024 * 1024, auth_required: false };

/// Everything a connection would see: the requests, and how the bytes end.
#[derive(Debug, PartialEq)]
struct Seen {
    requests: Vec<Vec<Vec<u8>>>,
    error: Option<ProtocolError>,
    unparsed_bytes: usize,
}

/// Parses bytes that arrive in `chunks`, as a connection does: what is left over is given again
/// with what follows.
fn parse(chunks: &[&[u8]], limits: &RequestLimits) -> Seen {
    let mut parser = RequestParser::new();
    let mut input = Vec::new();
    let mut seen = Seen { requests: Vec::new(), error: None, unparsed_bytes: 0 };
    for chunk in chunks {
        input.extend_from_slice(chunk);
        loop {
            match parser.parse(&input, limits) {
                Ok(ParseProgress::Complete) => {
                    let request = parser.request(&input);
                    seen.requests.push(request.iter_from(0).map(<[u8]>::to_vec).collect());
                    input.drain(..parser.consumed());
                    parser.reset();
                }
                Ok(ParseProgress::Incomplete { wanted_bytes }) => {
                    assert!(wanted_bytes > input.len(), "wants what it has: {wanted_bytes}");
                    break;
                }
                Err(error) => {
                    seen.error = Some(error);
                    return seen;
                }
            }
        }
    }
    seen.unparsed_bytes = input.len();
    seen
}

fn parse_all(bytes: &[u8]) -> Seen {
    parse(&[bytes], &LIMITS)
}

fn words(line: &str) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let mut seen = parse_all(format!("{line}\r\n").as_bytes());
    seen.error.map_or_else(|| Ok(seen.requests.remove(0)), Err)
}

#[test]
fn arrays_and_inline_commands_mix() {
    let seen = parse_all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*1\r\n$0\r\n\r\nECHO x\n*3\r\n$3\r\nSET");
    let expected: [&[&[u8]]; 4] = [&[b"GET", b"k"], &[b"PING"], &[b""], &[b"ECHO", b"x"]];
    assert_eq!(
        seen.requests,
        expected.map(|request| request.iter().map(|word| word.to_vec()).collect::<Vec<_>>())
    );
    assert_eq!((seen.error, seen.unparsed_bytes), (None, 11));
}

#[test]
fn empty_requests_have_no_arguments() {
    for bytes in ["\r\n", "\n", "   \r\n", "*0\r\n", "*-1\r\n", "*-9223372036854775808\r\n"] {
        assert_eq!(parse_all(bytes.as_bytes()).requests, [Vec::<Vec<u8>>::new()], "{bytes:?}");
    }
}

#[test]
fn protocol_errors_have_the_texts_of_redis() {
    let long = "1".repeat(MAX_LINE_BYTES + 1);
    for (bytes, text) in [
        ("*abc\r\n".to_owned(), "Protocol error: invalid multibulk length"),
        ("*\r\n".to_owned(), "Protocol error: invalid multibulk length"),
        ("*01\r\n".to_owned(), "Protocol error: invalid multibulk length"),
        ("*1048577\r\n".to_owned(), "Protocol error: invalid multibulk length"),
        ("*99999999999999999999\r\n".to_owned(), "Protocol error: invalid multibulk length"),
        (format!("*{long}"), "Protocol error: too big mbulk count string"),
        ("*1\r\nx3\r\n".to_owned(), "Protocol error: expected '$', got 'x'"),
        ("*1\r\n\r\n".to_owned(), "Protocol error: expected '$', got '\r'"),
        ("*2\r\n$1\r\na\r\n*1\r\n".to_owned(), "Protocol error: expected '$', got '*'"),
        ("*1\r\n$x\r\n".to_owned(), "Protocol error: invalid bulk length"),
        ("*1\r\n$-1\r\n".to_owned(), "Protocol error: invalid bulk length"),
        ("*1\r\n$\r\n".to_owned(), "Protocol error: invalid bulk length"),
        ("*1\r\n$536870913\r\n".to_owned(), "Protocol error: invalid bulk length"),
        (format!("*1\r\n${long}"), "Protocol error: too big bulk count string"),
        (long, "Protocol error: too big inline request"),
        ("GET \"k\r\n".to_owned(), "Protocol error: unbalanced quotes in request"),
        ("GET 'k'x\r\n".to_owned(), "Protocol error: unbalanced quotes in request"),
    ] {
        let error = parse_all(bytes.as_bytes()).error.expect("an error");
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn limits_are_accepted_exactly() {
    assert_eq!(parse_all(b"*1048576\r\n").error, None);
    assert_eq!(parse_all(b"*1\r\n$536870912\r\n").error, None);
    let line = "x".repeat(MAX_LINE_BYTES);
    assert_eq!(parse_all(format!("{line}\n").as_bytes()).requests.len(), 1);
    assert_eq!(parse_all(format!("{line}x\n").as_bytes()).error, Some(ProtocolError::TooBigInline));
}

#[test]
fn an_unauthenticated_client_may_send_little() {
    let limits = RequestLimits { auth_required: true, ..LIMITS };
    assert_eq!(parse(&[b"*10\r\n$16384\r\n"], &limits).error, None);
    assert_eq!(parse(&[b"*11\r\n"], &limits).error, Some(ProtocolError::UnauthenticatedMultibulkLength));
    assert_eq!(parse(&[b"*1\r\n$16385\r\n"], &limits).error, Some(ProtocolError::UnauthenticatedBulkLength));
    assert_eq!(
        ProtocolError::UnauthenticatedMultibulkLength.to_string(),
        "Protocol error: unauthenticated multibulk length"
    );
    assert_eq!(
        ProtocolError::UnauthenticatedBulkLength.to_string(),
        "Protocol error: unauthenticated bulk length"
    );
}

#[test]
fn inline_words_follow_the_quoting_rules() {
    for (line, expected) in [
        (r#"SET k "a b""#, Ok(vec![&b"SET"[..], b"k", b"a b"])),
        (r#"SET k 'a "b'"#, Ok(vec![&b"SET"[..], b"k", b"a \"b"])),
        (r"SET k 'it\'s'", Ok(vec![&b"SET"[..], b"k", b"it's"])),
        (r#"a"b c"  d"#, Ok(vec![&b"ab c"[..], b"d"])),
        (r#""\x41\n\r\t\b\a\\\"\q""#, Ok(vec![&b"A\n\r\t\x08\x07\\\"q"[..]])),
        (r#""\x4g""#, Ok(vec![&b"x4g"[..]])),
        ("\"\"", Ok(vec![&b""[..]])),
        ("\t a\tb ", Ok(vec![&b"a"[..], b"b"])),
        (r#"a"b"c"#, Err(ProtocolError::UnbalancedQuotes)),
        (r#"a "b\""#, Err(ProtocolError::UnbalancedQuotes)),
        (r"a 'b\'", Err(ProtocolError::UnbalancedQuotes)),
    ] {
        let expected = expected.map(|words| words.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert_eq!(words(line), expected, "{line}");
    }
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut parser = RequestParser::new();
    assert!(parser.parse(b"*1048576\r\n$536870912\r\nabc", &LIMITS).is_ok());
    assert_eq!((parser.arguments.capacity(), parser.unquoted.capacity()), (0, 0));
}

#[test]
fn a_large_request_leaves_nothing_behind() {
    let mut parser = RequestParser::new();
    let mut input = format!("*{MAX_ARGUMENTS}\r\n").into_bytes();
    input.extend(b"$1\r\nx\r\n".repeat(MAX_ARGUMENTS));
    assert_eq!(parser.parse(&input, &LIMITS), Ok(ParseProgress::Complete));
    assert_eq!(parser.request(&input).len(), MAX_ARGUMENTS);
    parser.reset();
    assert!(parser.arguments.capacity() <= KEPT_ARGUMENTS, "{}", parser.arguments.capacity());
}

/// No later call looks again at what a call has looked at: here it would find the end of a line.
#[test]
fn no_byte_is_searched_twice() {
    for (first, second) in [
        (&b"xxxx"[..], &b"\n\n\n\nx"[..]),
        (b"*1111", b"*\r\n\r\n1"),
        (b"*2\r\n$1\r\nx\r\n$1111", b"*2\r\n$1\r\nx\r\n$\r\n\r\n1"),
    ] {
        let mut parser = RequestParser::new();
        for input in [first, second] {
            assert!(
                matches!(parser.parse(input, &LIMITS), Ok(ParseProgress::Incomplete { .. })),
                "{input:?}"
            );
        }
    }
}

/// A parser that started again with every byte would take 10^10 steps here.
#[test]
fn work_does_not_depend_on_how_the_bytes_are_split() {
    let started = std::time::Instant::now();
    let mut input = b"*30001\r\n".to_vec();
    input.extend(b"$1\r\nx\r\n".repeat(30_000));
    input.extend(format!("${}\r\n", 200_000).into_bytes());
    input.extend(vec![b'\n'; 200_000]);
    input.extend(b"\r\n");
    let mut parser = RequestParser::new();
    for end in 0..input.len() {
        assert!(matches!(parser.parse(&input[..end], &LIMITS), Ok(ParseProgress::Incomplete { .. })));
    }
    assert_eq!(parser.parse(&input, &LIMITS), Ok(ParseProgress::Complete));

    let line = "x".repeat(MAX_LINE_BYTES);
    parser.reset();
    for end in 0..line.len() {
        assert!(matches!(
            parser.parse(&line.as_bytes()[..end], &LIMITS),
            Ok(ParseProgress::Incomplete { .. })
        ));
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

/// `bytes` in the pieces that `cuts` make.
fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let argument = prop::collection::vec(any::<u8>(), 0..20);
    let array = prop::collection::vec(argument, 0..6).prop_map(|arguments| encode(&arguments));
    let inline = "[a-z\"'\\\\ \\t]{0,12}\r?\n".prop_map(String::into_bytes);
    let garbage = "[*$0-9\r\na-]{0,6}".prop_map(String::into_bytes);
    prop::collection::vec(prop_oneof![4 => array, 2 => inline, 1 => garbage], 0..8)
        .prop_map(|parts| parts.concat())
}

/// The request as the codec crate encodes it for a client.
fn encode(arguments: &[Vec<u8>]) -> Vec<u8> {
    let frames: Vec<_> = arguments.iter().map(|argument| BorrowedFrame::BulkString(argument)).collect();
    let frame = BorrowedFrame::Array(&frames);
    let mut bytes = vec![0; frame.encode_len(false)];
    redis_protocol::resp2::encode::encode_borrowed(&mut bytes, &frame, false).expect("room for the frame");
    bytes
}

proptest! {
    #[test]
    fn any_split_gives_the_same_requests(bytes in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        prop_assert_eq!(parse(&split(&bytes, &cuts), &LIMITS), parse_all(&bytes));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), auth_required: bool) {
        parse(&[&bytes], &RequestLimits { bulk_bytes: 100, auth_required });
    }

    #[test]
    fn what_a_client_encodes_is_parsed(requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6), 0..6)) {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
        let seen = parse_all(&bytes);
        prop_assert_eq!((seen.requests, seen.error, seen.unparsed_bytes), (requests, None, 0));
    }
}
