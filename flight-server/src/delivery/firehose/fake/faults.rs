//! What can go wrong with a call, and plans of it.

use std::time::Duration;

use fastrand::Rng;

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is refused as a whole.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error's code.
        code: String,
    },
    /// The records at these positions are not taken.
    Records(Vec<usize>),
    /// The connection breaks before anything is taken.
    Reset,
    /// All is taken, then the connection breaks.
    AnswerLost,
    /// All is taken, and answered after so long.
    AnswerLate(Duration),
    /// All is taken, and the answer is that something broke.
    BrokenAfter,
    /// It takes so long, then goes well.
    Slow(Duration),
}

impl Fault {
    /// A stream that has its fill.
    pub fn full() -> Self {
        Self::Refused { status: 500, code: "ServiceUnavailableException".to_owned() }
    }

    /// Something broke before anything was taken.
    pub fn broken() -> Self {
        Self::Refused { status: 500, code: "InternalFailure".to_owned() }
    }

    /// Whether the record at `position` is taken.
    pub fn takes(&self, position: usize) -> bool {
        match self {
            Self::Refused { .. } | Self::Reset => false,
            Self::Records(failed) => !failed.contains(&position),
            Self::None | Self::AnswerLost | Self::AnswerLate(_) | Self::BrokenAfter | Self::Slow(_) => true,
        }
    }

    /// Whether the client is told what was taken, by an answer that says so.
    pub fn is_told(&self) -> bool {
        matches!(self, Self::None | Self::Slow(_) | Self::Records(_))
    }
}

/// Faults by chance: each follows from the seed and the number of the call alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Where chance begins.
    pub seed: u64,
    /// How many calls of a hundred go wrong.
    pub percent: u8,
    /// How long an answer that is late takes; none: no answer is late.
    pub late: Option<Duration>,
}

impl Plan {
    /// What goes wrong with the `call`th call of a stream, which carries so many records.
    pub fn fault(self, call: u64, records: usize) -> Fault {
        let mut rng = Rng::with_seed(self.seed.rotate_left(32) ^ call);
        // The first numbers of seeds that are alike are alike.
        rng = rng.fork();
        if rng.u8(0..100) >= self.percent {
            return Fault::None;
        }
        match rng.u8(0..40) {
            0..8 => Fault::full(),
            8..20 => Fault::Records((0..records).filter(|_| rng.bool()).collect()),
            20..25 => Fault::Reset,
            25..30 => Fault::AnswerLost,
            30..33 => Fault::BrokenAfter,
            33..36 => Fault::broken(),
            36..39 => Fault::Slow(Duration::from_millis(rng.u64(0..5))),
            _ => self.late.map_or(Fault::AnswerLost, Fault::AnswerLate),
        }
    }
}
