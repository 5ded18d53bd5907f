//! The options of SET and GETEX.

use super::super::keyspace::UnixMs;
use super::super::number::parse_i64;
use super::super::request::Request;
use super::failure::Failure;
use super::table::Command;

/// The unit of a time that a client gives or gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeUnit {
    Seconds,
    Milliseconds,
}

/// What a command does about the expiry time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ExpiryOption<'a> {
    /// The command says nothing: SET removes it, GETEX keeps it.
    #[default]
    Unsaid,
    Keep,
    Persist,
    After(&'a [u8], TimeUnit),
    At(&'a [u8], TimeUnit),
}

impl ExpiryOption<'_> {
    /// The time that was given; `None` if none was.
    ///
    /// # Errors
    ///
    /// It is no integer, or not positive, or too far away; the error names `command`.
    pub(super) fn resolve(self, now: UnixMs, command: &Command) -> Result<Option<UnixMs>, Failure> {
        let (amount, unit, base) = match self {
            Self::After(amount, unit) => (amount, unit, now),
            Self::At(amount, unit) => (amount, unit, 0),
            Self::Unsaid | Self::Keep | Self::Persist => return Ok(None),
        };
        let amount = parse_i64(amount).ok_or(Failure::NOT_AN_INTEGER)?;
        let scale = if unit == TimeUnit::Seconds { 1000 } else { 1 };
        let expires_at = amount.checked_mul(scale).and_then(|amount| amount.checked_add(base));
        match expires_at {
            Some(expires_at) if amount > 0 && expires_at > 0 => Ok(Some(expires_at)),
            _ => Err(invalid_expire_time(command)),
        }
    }
}

pub(super) fn invalid_expire_time(command: &Command) -> Failure {
    Failure::quoting("ERR invalid expire time in '", command.full_name.as_bytes(), "' command")
}

/// The condition on which SET sets its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SetCondition {
    #[default]
    Always,
    IfAbsent,
    IfPresent,
}

/// What SET and GETEX take after their fixed arguments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SetOptions<'a> {
    pub(super) expiry: ExpiryOption<'a>,
    pub(super) condition: SetCondition,
    /// Reply with the previous value.
    pub(super) get: bool,
}

impl<'a> SetOptions<'a> {
    /// The options of SET: the arguments from the fourth on.
    pub(super) fn of_set(request: Request<'a>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut arguments = request.iter_from(3);
        while let Some(option) = arguments.next() {
            let condition = |other: SetCondition, this: SetCondition, options: &mut Self| {
                let allowed = options.condition != other;
                options.condition = this;
                allowed
            };
            let known = if option.eq_ignore_ascii_case(b"nx") {
                condition(SetCondition::IfPresent, SetCondition::IfAbsent, &mut options)
            } else if option.eq_ignore_ascii_case(b"xx") {
                condition(SetCondition::IfAbsent, SetCondition::IfPresent, &mut options)
            } else if option.eq_ignore_ascii_case(b"get") {
                options.get = true;
                true
            } else if option.eq_ignore_ascii_case(b"keepttl") {
                options.expect_expiry(ExpiryOption::Keep)
            } else {
                options.time(option, &mut arguments)
            };
            if !known {
                return Err(Failure::SYNTAX);
            }
        }
        Ok(options)
    }

    /// The options of GETEX: the arguments from the third on.
    pub(super) fn of_getex(request: Request<'a>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut arguments = request.iter_from(2);
        while let Some(option) = arguments.next() {
            let known = if option.eq_ignore_ascii_case(b"persist") {
                options.expect_expiry(ExpiryOption::Persist)
            } else {
                options.time(option, &mut arguments)
            };
            if !known {
                return Err(Failure::SYNTAX);
            }
        }
        Ok(options)
    }

    /// Takes `option` if it is one that gives a time, which is then the next of `arguments`.
    fn time(&mut self, option: &[u8], arguments: &mut impl Iterator<Item = &'a [u8]>) -> bool {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        let (absolute, unit) = if is("ex") {
            (false, TimeUnit::Seconds)
        } else if is("px") {
            (false, TimeUnit::Milliseconds)
        } else if is("exat") {
            (true, TimeUnit::Seconds)
        } else if is("pxat") {
            (true, TimeUnit::Milliseconds)
        } else {
            return false;
        };
        arguments.next().is_some_and(|amount| {
            self.expect_expiry(if absolute {
                ExpiryOption::At(amount, unit)
            } else {
                ExpiryOption::After(amount, unit)
            })
        })
    }

    /// Whether `expiry` may be given: no other option was, or only the same one with another time.
    /// The last one counts.
    fn expect_expiry(&mut self, expiry: ExpiryOption<'a>) -> bool {
        let allowed = match (self.expiry, expiry) {
            (ExpiryOption::Unsaid, _) => true,
            (ExpiryOption::After(_, a), ExpiryOption::After(_, b))
            | (ExpiryOption::At(_, a), ExpiryOption::At(_, b)) => a == b,
            (before, now) => before == now,
        };
        self.expiry = expiry;
        allowed
    }
}
