//! The configuration file: TOML whose keys are the command's flags.
//!
//! A file's entries become arguments, so that there is one definition of what a flag is called,
//! takes and means. A flag on the command line replaces the file's entry.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use boson::{Error, ErrorKind, Result};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

/// Parses `arguments` and, if they name a `--config` file, that file too. Wrong arguments end the
/// process with clap's message.
pub(crate) fn merge(command: &Command, mut arguments: Vec<OsString>) -> Result<ArgMatches> {
    let matches = command.clone().get_matches_from(&arguments);
    let Some((name, given)) = matches.subcommand() else { return Ok(matches) };
    let Ok(Some(path)) = given.try_get_one::<PathBuf>("config") else { return Ok(matches) };
    let path = path.clone();
    let subcommand = command.find_subcommand(name).expect("clap matched it");
    arguments.extend(file_arguments(subcommand, given, &path)?);
    match command.clone().try_get_matches_from(arguments) {
        Ok(matches) => Ok(matches),
        Err(error) => {
            let message = error.to_string();
            let reason = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(wrong(&path, reason))
        }
    }
}

fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "read configuration")
        .at(path.display().to_string())
        .because(reason.into())
}

/// The arguments that the file at `path` adds to those `given` on the command line.
fn file_arguments(subcommand: &Command, given: &ArgMatches, path: &Path) -> Result<Vec<OsString>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::io(error, "read configuration").at(path.display().to_string()))?;
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| wrong(path, error.message().to_owned()))?;
    let mut arguments = Vec::new();
    for (key, value) in table {
        let argument = subcommand
            .get_arguments()
            .find(|argument| argument.get_long() == Some(key.as_str()) && key != "config")
            .ok_or_else(|| {
                wrong(path, format!("`{key}` is no setting; see `boson {} --help`", subcommand.get_name()))
            })?;
        if given.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let values = match value {
            toml::Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            arguments.extend(one_argument(&key, argument.get_action(), value, path)?);
        }
    }
    Ok(arguments)
}

fn one_argument(key: &str, action: &ArgAction, value: toml::Value, path: &Path) -> Result<Option<OsString>> {
    let is_switch = matches!(action, ArgAction::SetTrue);
    let text = match value {
        toml::Value::Boolean(on) if is_switch => return Ok(on.then(|| format!("--{key}").into())),
        _ if is_switch => return Err(wrong(path, format!("`{key}` is either true or false"))),
        toml::Value::String(text) => text,
        toml::Value::Integer(number) => number.to_string(),
        other => {
            return Err(wrong(path, format!("`{key}` takes a string or a number, not {}", other.type_str())));
        }
    };
    Ok(Some(format!("--{key}={text}").into()))
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Sub {
        Go {
            #[arg(long)]
            listen: Vec<String>,
            #[arg(long)]
            number: Option<u16>,
            #[arg(long)]
            force: bool,
            #[arg(long)]
            config: Option<PathBuf>,
        },
    }

    fn parse(file: &str, extra: &[&str]) -> Result<Sub> {
        use clap::CommandFactory;
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("boson-config-{}-{id}", std::process::id()));
        std::fs::write(&path, file).expect("a temporary file");
        let mut arguments: Vec<OsString> = ["boson", "go", "--config"].map(OsString::from).to_vec();
        arguments.push(path.clone().into());
        arguments.extend(extra.iter().map(OsString::from));
        let merged = merge(&Cli::command(), arguments);
        std::fs::remove_file(&path).expect("it is there");
        merged.map(|matches| Cli::from_arg_matches(&matches).expect("the same definition").command)
    }

    #[test]
    fn a_file_says_what_flags_say_and_flags_win() {
        let file = "listen = [\"a\", \"b\"]\nnumber = 7\nforce = true\n";
        let Sub::Go { listen, number, force, .. } = parse(file, &[]).expect("valid");
        assert_eq!((listen, number, force), (vec!["a".to_owned(), "b".to_owned()], Some(7), true));
        let Sub::Go { listen, number, .. } = parse(file, &["--listen", "c"]).expect("valid");
        assert_eq!((listen, number), (vec!["c".to_owned()], Some(7)));
    }

    #[test]
    fn wrong_files_are_refused_with_a_sentence() {
        for (file, part) in [
            ("speed = 3", "`speed` is no setting"),
            ("number = \"many\"", "invalid value 'many'"),
            ("force = \"yes\"", "either true or false"),
            ("number = 1.5", "takes a string or a number"),
            ("listen = [", "read configuration"),
        ] {
            let error = parse(file, &[]).expect_err(file).to_string();
            assert!(error.contains(part), "{file}: {error}");
        }
    }
}
