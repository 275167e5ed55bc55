//! The registry of policies: names, parsing, construction. A new controller adds its line to
//! `policies!`.

use core::fmt;
use core::str::FromStr;

use super::{
    Controller, Deadline, DeadlineConfig, Decision, Fixed, FixedError, Halving, HalvingConfig,
    Ladder, LadderTable, LevelTable, Measurement, Seed, StateError,
};
use crate::collector::PassRings;
use crate::entry::EntryMemory;
use crate::size::RingSize;
use crate::time::{Instant, Micros};

/// A controller that is known by name.
pub trait Registered: Controller + Sized {
    /// Its name, in lower case.
    const NAME: &'static str;
    /// Whether a length of time may follow its name, as in `fixed:1s`.
    const ARGUMENT: Argument = Argument::None;

    /// Builds it for rings of `size`.
    ///
    /// # Errors
    /// [`PolicyError`] where the argument is missing or wrong.
    fn build(argument: Option<Micros>, size: RingSize) -> Result<Self, PolicyError>;
}

/// Whether a policy's name takes a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// It takes none.
    None,
    /// It may have one.
    Optional,
    /// It must have one.
    Required,
}

/// Why a policy can't be had by that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// No policy has that name.
    Unknown,
    /// It takes no argument.
    NeedlessArgument {
        /// The policy.
        name: &'static str,
    },
    /// It takes an argument, and there is none.
    MissingArgument {
        /// The policy.
        name: &'static str,
    },
    /// What follows the colon is no length of time.
    NotATime {
        /// The policy.
        name: &'static str,
    },
    /// The policy refuses its argument.
    Refused {
        /// The policy.
        name: &'static str,
        /// Why, and what to do.
        why: &'static str,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "no such policy: choose {PolicyNames}"),
            Self::NeedlessArgument { name } => {
                write!(
                    f,
                    "{name} takes no argument: leave out what follows the colon"
                )
            }
            Self::MissingArgument { name } => {
                write!(f, "{name} needs a length of time, as in {name}:1s")
            }
            Self::NotATime { name } => write!(
                f,
                "{name}: not a length of time: give a whole number and its unit, as in {name}:10ms"
            ),
            Self::Refused { name, why } => write!(f, "{name}: {why}"),
        }
    }
}

impl core::error::Error for PolicyError {}

/// Prints the policies by name, with what may follow the name.
#[derive(Clone, Copy, Debug)]
pub struct PolicyNames;

impl fmt::Display for PolicyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, argument) in Policy::NAMES {
            f.write_str(separator)?;
            separator = ", ";
            match argument {
                Argument::None => f.write_str(name)?,
                Argument::Optional => write!(f, "{name}[:DURATION]")?,
                Argument::Required => write!(f, "{name}:DURATION (as in {name}:1s)")?,
            }
        }
        Ok(())
    }
}

/// A policy by name, before the size of its rings is known. It is parsed from text such as
/// `deadline` or `fixed:10ms`, and printed as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PolicySpec {
    name: &'static str,
    argument: Option<Micros>,
}

impl PolicySpec {
    /// Creates the policy called `name`, with its argument if it has one.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn new(name: &str, argument: Option<Micros>) -> Result<Self, PolicyError> {
        let known = Policy::NAMES.into_iter().find(|(known, _)| *known == name);
        let (name, takes) = known.ok_or(PolicyError::Unknown)?;
        if takes == Argument::None && argument.is_some() {
            return Err(PolicyError::NeedlessArgument { name });
        }
        let spec = Self { name, argument };
        // Whether an argument is refused doesn't depend on the ring.
        spec.build(RingSize::LARGEST)?;
        Ok(spec)
    }

    /// Returns the policy's name, without its argument.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the length of time that follows the name.
    pub const fn argument(&self) -> Option<Micros> {
        self.argument
    }

    /// Builds the policy for rings of `size`.
    ///
    /// # Errors
    /// [`PolicyError`], which [`new`](Self::new) would have given already.
    pub fn build(&self, size: RingSize) -> Result<Policy, PolicyError> {
        Policy::named(self.name, self.argument, size)
    }
}

impl FromStr for PolicySpec {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let Some((name, argument)) = text.split_once(':') else {
            return Self::new(text, None);
        };
        let known = Policy::NAMES.into_iter().find(|(known, _)| *known == name);
        let (name, _) = known.ok_or(PolicyError::Unknown)?;
        let argument = argument.parse();
        Self::new(
            name,
            Some(argument.map_err(|_| PolicyError::NotATime { name })?),
        )
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.argument {
            Some(argument) => write!(f, ":{argument}"),
            None => Ok(()),
        }
    }
}

/// Defines [`Policy`] and [`PolicyState`] over the listed controllers.
macro_rules! policies {
    ($($controller:ident),* $(,)?) => {
        /// Any controller of this crate, chosen at run time, without allocation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Policy {
            $(
                #[doc = concat!("See [`", stringify!($controller), "`].")]
                $controller($controller),
            )*
        }

        /// The state of a [`Policy`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum PolicyState {
            $(
                #[doc = concat!("Of [`", stringify!($controller), "`].")]
                $controller(<$controller as Controller>::State),
            )*
        }

        impl Policy {
            /// The policies by name, and whether a length of time may follow.
            pub const NAMES: [(&'static str, Argument); [$(stringify!($controller)),*].len()] =
                [$((<$controller as Registered>::NAME, <$controller as Registered>::ARGUMENT)),*];

            /// Builds the policy called `name`.
            ///
            /// # Errors
            /// [`PolicyError`].
            pub fn named(
                name: &str,
                argument: Option<Micros>,
                size: RingSize,
            ) -> Result<Self, PolicyError> {
                $(
                    if name == <$controller as Registered>::NAME {
                        return <$controller as Registered>::build(argument, size)
                            .map(Self::$controller);
                    }
                )*
                Err(PolicyError::Unknown)
            }
        }

        impl Controller for Policy {
            type State = PolicyState;

            fn current(&self) -> Decision {
                match self {
                    $(Self::$controller(controller) => controller.current(),)*
                }
            }

            fn plan<M: EntryMemory>(&mut self, now: Instant, rings: &mut PassRings<'_, M>) {
                match self {
                    $(Self::$controller(controller) => controller.plan(now, rings),)*
                }
            }

            fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
                match self {
                    $(Self::$controller(controller) => controller.on_reaped(measurement),)*
                }
            }

            fn state(&self) -> PolicyState {
                match self {
                    $(Self::$controller(controller) => {
                        PolicyState::$controller(controller.state())
                    })*
                }
            }

            fn restore(&mut self, state: &PolicyState) -> Result<(), StateError> {
                match (self, state) {
                    $((Self::$controller(controller), PolicyState::$controller(state)) => {
                        controller.restore(state)
                    })*
                    _ => Err(StateError::OtherPolicy),
                }
            }
        }
    };
}

policies!(Seed, Ladder, Halving, Deadline, Fixed);

const _: () = assert!(size_of::<Policy>() <= 96, "a policy is a few words");

impl Policy {
    /// Creates [`Fixed`], every `wait`.
    ///
    /// # Errors
    /// [`FixedError`] where that is no time.
    pub const fn fixed(wait: Micros) -> Result<Self, FixedError> {
        match Fixed::new(wait) {
            Ok(fixed) => Ok(Self::Fixed(fixed)),
            Err(error) => Err(error),
        }
    }

    /// Creates [`Seed`] with the patch's table.
    pub const fn seed(size: RingSize) -> Self {
        Self::Seed(Seed::new(LevelTable::PATCH, size))
    }

    /// Creates [`Ladder`] with its standard table.
    pub const fn ladder(size: RingSize) -> Self {
        Self::Ladder(Ladder::new(LadderTable::STANDARD, size))
    }

    /// Creates [`Halving`] with the review's constants.
    pub const fn halving(size: RingSize) -> Self {
        Self::Halving(Halving::new(HalvingConfig::REVIEW, size))
    }

    /// Creates a [`Deadline`] that learns its bounds.
    pub const fn deadline(size: RingSize) -> Self {
        Self::Deadline(Deadline::new(DeadlineConfig::STANDARD, size))
    }
}
