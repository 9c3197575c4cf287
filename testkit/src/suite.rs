//! Test programs that need a real server: with it, their tests run; without
//! it, every one of them is reported as ignored, by name, and why.

use std::process::exit;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test: a name that says a behaviour, and a function that panics when it
/// does not hold.
pub type Test = (&'static str, fn());

/// Runs the tests if what they need was found, and ends the process. `needs`
/// says in words why it was not.
pub fn run(needs: Result<(), String>, tests: impl IntoIterator<Item = Test>) -> ! {
    run_each([(needs, tests.into_iter().collect())])
}

/// The same with groups of tests that need different things.
pub fn run_each(groups: impl IntoIterator<Item = (Result<(), String>, Vec<Test>)>) -> ! {
    let trials = groups.into_iter().flat_map(|(needs, tests)| trials(needs, tests)).collect();
    exit(i32::from(libtest_mimic::run(&Arguments::from_args(), trials).has_failed()) * 101)
}

fn trials(needs: Result<(), String>, tests: Vec<Test>) -> Vec<Trial> {
    let is_missing = needs.is_err();
    let trials = tests.into_iter().map(|(name, test)| {
        let trial = Trial::test(name, move || -> Result<(), Failed> {
            test();
            Ok(())
        });
        trial.with_ignored_flag(is_missing)
    });
    let trials: Vec<Trial> = trials.collect();
    if let Err(reason) = needs {
        say(&format!("skipped: {} tests, because {reason}", trials.len()));
    }
    trials
}

/// One name for each function of a list: `tests![a_b, c_d]`.
#[macro_export]
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        [$((stringify!($test), $test as fn())),+]
    };
}

#[expect(clippy::print_stderr, reason = "the program is a test's, and says what it leaves out")]
fn say(text: &str) {
    eprintln!("{text}");
}
