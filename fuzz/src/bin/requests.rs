//! RESP requests: the parser finds the same requests however the bytes are cut.
#![no_main]

use boson::redis::fuzzing::{ParseProgress, ProtocolError, RequestLimits, RequestParser};
use libfuzzer_sys::fuzz_target;

type Requests = Vec<Vec<Vec<u8>>>;

/// The requests in `bytes`, which arrive `piece` at a time, and why there are no more of them.
fn parse(bytes: &[u8], piece: usize, limits: &RequestLimits) -> (Requests, Option<ProtocolError>) {
    let mut parser = RequestParser::new();
    let mut requests = Vec::new();
    let (mut start, mut arrived) = (0, 0);
    while arrived < bytes.len() {
        arrived = bytes.len().min(arrived + piece);
        loop {
            let input = &bytes[start..arrived];
            match parser.parse(input, limits) {
                Err(error) => return (requests, Some(error)),
                Ok(ParseProgress::Incomplete { wanted_bytes }) => {
                    assert!(wanted_bytes > input.len(), "it wants what it has");
                    break;
                }
                Ok(ParseProgress::Complete) => {
                    let request = parser.request(input);
                    requests.push(request.iter_from(0).map(<[u8]>::to_vec).collect());
                    let consumed = parser.consumed();
                    assert!((1..=input.len()).contains(&consumed), "{consumed} of {}", input.len());
                    start += consumed;
                    parser.reset();
                }
            }
        }
    }
    (requests, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let limits = RequestLimits { bulk_bytes: 1 << 20, auth_required: choice & 0x80 != 0 };
    let whole = parse(bytes, usize::MAX / 2, &limits);
    let cut = parse(bytes, usize::from(choice & 0x0f) + 1, &limits);
    assert_eq!(whole, cut);
});
