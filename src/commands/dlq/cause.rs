//! The `--cause` and `--fault` flags.

use clap::ValueEnum;

use crate::common::retry::{CauseKind, Fault};

/// The value of `--cause`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum CauseFlag {
    /// The last retry failed
    Exhausted,
    /// The job blocked an ordered endpoint for longer than --max-lane-block
    Blocked,
    /// The customer answered 410
    Gone,
    /// The server doesn't allow calls to this address
    Refused,
    /// The endpoint is disabled
    Disabled,
    /// The server stopped or crashed during too many attempts
    Interrupted,
    /// The stored job can't be read
    Damaged,
}

/// The value of `--fault`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum FaultFlag {
    /// The customer's endpoint failed, or is gone, disabled or not allowed
    Customer,
    /// The operator's system failed: interrupted or damaged
    System,
}

impl From<CauseFlag> for CauseKind {
    fn from(flag: CauseFlag) -> Self {
        match flag {
            CauseFlag::Exhausted => Self::Exhausted,
            CauseFlag::Blocked => Self::Blocked,
            CauseFlag::Gone => Self::Gone,
            CauseFlag::Refused => Self::Refused,
            CauseFlag::Disabled => Self::Disabled,
            CauseFlag::Interrupted => Self::Interrupted,
            CauseFlag::Damaged => Self::Damaged,
        }
    }
}

impl From<FaultFlag> for Fault {
    fn from(flag: FaultFlag) -> Self {
        match flag {
            FaultFlag::Customer => Self::Customer,
            FaultFlag::System => Self::System,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_flag_of_the_same_name() {
        let flags = CauseFlag::value_variants().iter();
        let names: Vec<&str> = flags.clone().map(|&flag| CauseKind::from(flag).as_str()).collect();
        assert_eq!(names, CauseKind::ALL.map(CauseKind::as_str));
        for flag in flags {
            let name = CauseKind::from(*flag).as_str();
            assert_eq!(flag.to_possible_value().unwrap().get_name(), name);
        }
    }
}
