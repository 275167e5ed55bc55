//! Policies by name.

use super::*;

fn spec(text: &str) -> Result<PolicySpec, PolicyError> {
    text.parse()
}

#[test]
fn a_policy_is_printed_as_it_is_parsed() {
    for text in [
        "deadline",
        "deadline:1s",
        "deadline:10ms",
        "ladder",
        "seed",
        "halving",
        "fixed:1s",
        "fixed:1s500ms",
        "fixed:250us",
    ] {
        let parsed = spec(text).unwrap();
        assert_eq!(parsed.to_string(), text);
        let (name, argument) = text.split_once(':').unwrap_or((text, ""));
        assert_eq!(parsed.name(), name);
        assert_eq!(parsed.argument(), argument.parse().ok());
        assert_eq!(PolicySpec::new(name, parsed.argument()), Ok(parsed));
    }
    let normal = spec("fixed:1500ms").unwrap().to_string();
    assert_eq!(normal, "fixed:1s500ms", "one length, one text");
}

#[test]
fn a_policy_by_name_is_the_one_that_its_constructor_makes() {
    let built = |text: &str| spec(text).unwrap().build(SIZE).unwrap();
    let by_name = ["fixed:1s", "seed", "ladder", "halving", "deadline"].map(built);
    assert_eq!(by_name, policies(SIZE));
    let config = DeadlineConfig::STANDARD.freshness(Micros::SECOND).unwrap();
    let fresh = Policy::Deadline(Deadline::new(config, SIZE));
    assert_eq!(built("deadline:1s"), fresh);
    assert_ne!(built("deadline"), fresh);
}

#[test]
fn each_name_that_is_listed_can_be_built_as_it_is_listed_and_not_otherwise() {
    for (name, argument) in Policy::NAMES {
        let (bare, with) = (spec(name), PolicySpec::new(name, Some(Micros::SECOND)));
        let expected = match argument {
            Argument::None => (true, false),
            Argument::Optional => (true, true),
            Argument::Required => (false, true),
        };
        assert_eq!((bare.is_ok(), with.is_ok()), expected, "{name}");
    }
}

#[test]
fn each_wrong_policy_has_its_own_error_that_says_what_to_do() {
    for text in ["", "nothing", "Fixed:1s", "nothing:1s", "fixed 1s", ":1s"] {
        assert_eq!(spec(text), Err(PolicyError::Unknown), "{text:?}");
    }
    for text in ["fixed:", "fixed:1", "fixed:s", "fixed:1s:1s", "fixed:-1s"] {
        let name = "fixed";
        assert_eq!(spec(text), Err(PolicyError::NotATime { name }), "{text:?}");
    }
    let wrong = [
        "no",
        "ladder:1s",
        "fixed",
        "deadline:1",
        "fixed:0us",
        "deadline:0s",
    ];
    let wrong = wrong.map(|text| spec(text).unwrap_err());
    let expected = [
        (
            PolicyError::Unknown,
            "no such policy: choose seed, ladder, halving, deadline[:DURATION], fixed:DURATION (as \
             in fixed:1s)",
        ),
        (
            PolicyError::NeedlessArgument { name: "ladder" },
            "ladder takes no argument: leave out what follows the colon",
        ),
        (
            PolicyError::MissingArgument { name: "fixed" },
            "fixed needs a length of time, as in fixed:1s",
        ),
        (
            PolicyError::NotATime { name: "deadline" },
            "deadline: not a length of time: give a whole number and its unit, as in deadline:10ms",
        ),
        (
            PolicyError::Refused {
                name: "fixed",
                why: "an interval of no length would make the reaper spin: give it a length",
            },
            "fixed: an interval of no length",
        ),
        (
            PolicyError::Refused {
                name: "deadline",
                why: "a freshness limit of no length would make the reaper spin: give it a length",
            },
            "deadline: a freshness limit of no length",
        ),
    ];
    assert_eq!(wrong, expected.map(|(error, _)| error));
    assert_distinct_and_helpful(&expected);
}
