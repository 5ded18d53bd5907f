//! The fate of a connection: which stage of its life it is in, and whether its replies are sent.
//!
//! # Stages
//!
//! | stage | what happens in it |
//! |---|---|
//! | [`Receiving`](Stage::Receiving) | All that arrived is run. More is received; replies are sent meanwhile. |
//! | [`Running`](Stage::Running) | Bytes are there that may be a request. They are run; replies are sent meanwhile. |
//! | [`Closing`](Stage::Closing) | Nothing more is received or run. The replies that wait are sent. |
//! | [`Ended`](Stage::Ended) | Nothing more happens, and nothing is sent. |
//!
//! A connection begins in `Receiving`. These are all transitions; an event that has no row for the
//! stage it meets changes nothing.
//!
//! | from | to | by | who, and when |
//! |---|---|---|---|
//! | `Receiving` | `Running` | [`received`](Fate::received) | the socket's task: bytes have arrived |
//! | `Running` | `Receiving` | [`ran_all`](Fate::ran_all) | the session: what is left is an incomplete request or nothing |
//! | `Receiving`, `Running` | `Closing` | [`close`](Fate::close) | a command: QUIT, SHUTDOWN, CLIENT KILL of its own connection |
//! | | | | the session: the bytes broke the protocol, or somebody killed the client while its commands ran |
//! | | | | the socket's task: the client's stream has ended |
//! | `Closing` | `Ended(Sent)` | [`sent_all`](Fate::sent_all) | the socket's task: no reply waits any more |
//! | all but `Ended` | `Ended(Gone)` | [`lost`](Fate::lost) | the socket's task: reading or writing failed |
//! | all but `Ended` | `Ended(Dropped)` | [`drop_for`](Fate::drop_for) | the session: [`Killed`](DropReason::Killed) before its commands ran, [`TooMuchInput`](DropReason::TooMuchInput), [`TooMuchOutput`](DropReason::TooMuchOutput), [`Http`](DropReason::Http) |
//! | | | | the socket's task, when time is up: `Killed`, [`SlowReader`](DropReason::SlowReader), [`Idle`](DropReason::Idle) |
//!
//! The socket's task is `serve::conversation`, or a program with a socket of its own; both make
//! their transitions by the [`Session`](super::Session)'s methods of these names. Other connections
//! and the end of the server make no transition. They mark the client
//! ([`Client::kill`](super::client::Client::kill)) and wake its task, which makes the transition
//! itself.
//!
//! # Replies
//!
//! CLIENT REPLY and RESET decide whether replies are sent. The session tells the beginning of each
//! command ([`begin_command`](Fate::begin_command)) and asks at its end whether the reply is sent
//! ([`sends_reply`](Fate::sends_reply)).
//!
//! | replies are | a command that says nothing | `REPLY ON` | `REPLY OFF` | `REPLY SKIP` | `RESET` |
//! |---|---|---|---|---|---|
//! | on | sent; on | sent; on | sent; off | sent; skipped once | sent; on |
//! | off | not sent; off | sent; on | not sent; off | not sent; off | sent; on |
//! | skipped once | not sent; on | sent; on | not sent; off | not sent; skipped once | not sent; on |
//!
//! Each cell says whether this command's reply is sent, and what replies are from then on.

/// Which stage of its life a connection is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// All that arrived is run: send the replies, and receive more meanwhile.
    #[default]
    Receiving,
    /// There is more to run: send the replies, and run meanwhile.
    Running,
    /// Send the replies, then close.
    Closing,
    /// It is over.
    Ended(End),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// All replies are sent: close in order.
    Sent,
    /// The client went away, or the network failed.
    Gone,
    /// Close at once, without the replies that wait.
    Dropped(DropReason),
}

/// Why a connection is closed without sending its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// Another client or the end of the program asked for it.
    Killed,
    /// Its incomplete request is larger than [`Limits::input_bytes`](super::Limits::input_bytes).
    TooMuchInput,
    /// One reply is larger than [`Limits::reply_bytes`](super::Limits::reply_bytes).
    TooMuchOutput,
    /// More than [`Limits::output_bytes`](super::Limits::output_bytes) of replies wait, or it is to
    /// be closed, and it took none of them for [`Limits::write`](super::Limits::write).
    SlowReader,
    /// It sent nothing for [`Limits::idle`](super::Limits::idle).
    Idle,
    /// It speaks HTTP: a web page may have been made to send it.
    Http,
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::TooMuchInput => "its request is larger than the query buffer limit",
            Self::TooMuchOutput => "its reply is larger than the limit of one reply",
            Self::SlowReader => "it does not take its replies",
            Self::Idle => "it was idle for too long",
            Self::Http => "it speaks HTTP, which may be an attack by cross-protocol scripting",
        })
    }
}

/// Whether replies are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReplyMode {
    #[default]
    On,
    Off,
    /// Not the next one.
    SkipNext,
}

/// The state of one connection; the module's documentation has its tables.
#[derive(Debug)]
pub(super) struct Fate {
    stage: Stage,
    /// Of the commands behind the current one.
    replies: ReplyMode,
    /// Whether the reply to the current command is sent.
    sends_reply: bool,
}

impl Fate {
    /// That of a new connection.
    pub(super) fn new() -> Self {
        Self { stage: Stage::default(), replies: ReplyMode::default(), sends_reply: true }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether commands may run: the connection is neither closing nor over.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Receiving | Stage::Running)
    }

    pub(super) fn received(&mut self) {
        if self.stage == Stage::Receiving {
            self.stage = Stage::Running;
        }
    }

    pub(super) fn ran_all(&mut self) {
        if self.stage == Stage::Running {
            self.stage = Stage::Receiving;
        }
    }

    pub(super) fn close(&mut self) {
        if self.is_open() {
            self.stage = Stage::Closing;
        }
    }

    pub(super) fn sent_all(&mut self) {
        if self.stage == Stage::Closing {
            self.stage = Stage::Ended(End::Sent);
        }
    }

    pub(super) fn lost(&mut self) {
        self.end(End::Gone);
    }

    pub(super) fn drop_for(&mut self, reason: DropReason) {
        self.end(End::Dropped(reason));
    }

    fn end(&mut self, end: End) {
        if !matches!(self.stage, Stage::Ended(_)) {
            self.stage = Stage::Ended(end);
        }
    }

    /// A command begins.
    pub(super) fn begin_command(&mut self) {
        self.sends_reply = self.replies == ReplyMode::On;
        if self.replies == ReplyMode::SkipNext {
            self.replies = ReplyMode::On;
        }
    }

    /// Whether the reply to the command that began last is sent.
    pub(super) fn sends_reply(&self) -> bool {
        self.sends_reply
    }

    /// CLIENT REPLY ON.
    pub(super) fn reply_on(&mut self) {
        (self.replies, self.sends_reply) = (ReplyMode::On, true);
    }

    /// CLIENT REPLY OFF.
    pub(super) fn reply_off(&mut self) {
        self.replies = ReplyMode::Off;
    }

    /// CLIENT REPLY SKIP.
    pub(super) fn reply_skip(&mut self) {
        if self.replies == ReplyMode::On {
            self.replies = ReplyMode::SkipNext;
        }
    }

    /// RESET, as far as replies go.
    pub(super) fn reset_replies(&mut self) {
        if self.replies == ReplyMode::Off {
            self.reply_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVING: Stage = Stage::Receiving;
    const RUNNING: Stage = Stage::Running;
    const CLOSING: Stage = Stage::Closing;
    const SENT: Stage = Stage::Ended(End::Sent);
    const GONE: Stage = Stage::Ended(End::Gone);
    const IDLE: Stage = Stage::Ended(End::Dropped(DropReason::Idle));

    /// The table of transitions, each stage before what becomes of it.
    #[test]
    fn every_event_meets_every_stage() {
        type Event = fn(&mut Fate);
        let before = [RECEIVING, RUNNING, CLOSING, SENT, GONE, IDLE];
        let table: [(&str, Event, [Stage; 6]); 6] = [
            ("received", Fate::received, [RUNNING, RUNNING, CLOSING, SENT, GONE, IDLE]),
            ("ran_all", Fate::ran_all, [RECEIVING, RECEIVING, CLOSING, SENT, GONE, IDLE]),
            ("close", Fate::close, [CLOSING, CLOSING, CLOSING, SENT, GONE, IDLE]),
            ("sent_all", Fate::sent_all, [RECEIVING, RUNNING, SENT, SENT, GONE, IDLE]),
            ("lost", Fate::lost, [GONE, GONE, GONE, SENT, GONE, IDLE]),
            ("drop_for", |fate| fate.drop_for(DropReason::Idle), [IDLE, IDLE, IDLE, SENT, GONE, IDLE]),
        ];
        assert_eq!(Fate::new().stage(), RECEIVING);
        for (name, event, after) in table {
            for (before, after) in before.into_iter().zip(after) {
                let mut fate = Fate { stage: before, ..Fate::new() };
                event(&mut fate);
                assert_eq!(fate.stage(), after, "{name} in {before:?}");
                let is_open = matches!(after, Stage::Receiving | Stage::Running);
                assert_eq!(fate.is_open(), is_open, "{after:?}");
            }
        }
    }

    /// The first reason stays, and so does the stage once it is over.
    #[test]
    fn a_connection_ends_once() {
        let mut fate = Fate::new();
        fate.drop_for(DropReason::TooMuchOutput);
        fate.drop_for(DropReason::Killed);
        fate.lost();
        assert_eq!(fate.stage(), Stage::Ended(End::Dropped(DropReason::TooMuchOutput)));
    }

    /// The table of replies: what is sent, and what replies are from then on.
    #[test]
    fn client_reply_decides_what_is_sent() {
        use ReplyMode::{Off, On, SkipNext};
        type Says = fn(&mut Fate);
        type SentAndThen = (bool, ReplyMode);
        let table: [(&str, Says, [SentAndThen; 3]); 5] = [
            ("nothing", |_| {}, [(true, On), (false, Off), (false, On)]),
            ("reply on", Fate::reply_on, [(true, On), (true, On), (true, On)]),
            ("reply off", Fate::reply_off, [(true, Off), (false, Off), (false, Off)]),
            ("reply skip", Fate::reply_skip, [(true, SkipNext), (false, Off), (false, SkipNext)]),
            ("reset", Fate::reset_replies, [(true, On), (true, On), (false, On)]),
        ];
        for (name, says, after) in table {
            for (before, after) in [On, Off, SkipNext].into_iter().zip(after) {
                let mut fate = Fate { replies: before, ..Fate::new() };
                fate.begin_command();
                says(&mut fate);
                assert_eq!((fate.sends_reply(), fate.replies), after, "{name}, replies {before:?}");
            }
        }
    }
}
