//! Help in the reader's language: Chinese where the environment asks for it, else English.

use std::collections::HashMap;
use std::sync::OnceLock;

use clap::{Arg, ArgAction, Command};

/// A line a text: English, a tab, Chinese.
const CHINESE: &str = include_str!("help.zh.tsv");

/// Clap's own help, with its headings in Chinese.
const TEMPLATE: &str = "{before-help}{about-with-newline}\n用法：{usage}\n\n{all-args}{after-help}";

/// Whether messages are to be Chinese: the first of `LC_ALL`, `LC_MESSAGES` and `LANG` that is set says so (POSIX).
pub(crate) fn is_chinese() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set).is_some_and(|locale| locale.starts_with("zh"))
}

/// A message in the reader's language, as far as its words are known, without what moves a terminal's cursor.
pub(crate) fn localized(message: &str) -> String {
    let chinese = is_chinese().then(|| berth_types::in_chinese(message)).flatten();
    super::output::harmless(&chinese.unwrap_or_else(|| message.to_owned()))
}

/// In Chinese, what the parser of the command line refuses; `None` for what is rare.
pub(crate) fn refusal(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};

    let told = |kind: ContextKind| match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(all) => Some(all.join(" ")),
        _ => None,
    };
    let argument = told(ContextKind::InvalidArg)?;
    let value = told(ContextKind::InvalidValue).unwrap_or_default();
    let why = match error.kind() {
        ErrorKind::MissingRequiredArgument => format!("缺少参数：{argument}"),
        ErrorKind::InvalidValue if value.is_empty() => format!("{argument} 需要一个值"),
        ErrorKind::InvalidValue => match told(ContextKind::ValidValue) {
            Some(all) => format!("{argument} 的值 {value} 无效，可选：{}", all.replace(' ', "、")),
            None => format!("{argument} 的值 {value} 无效"),
        },
        ErrorKind::ValueValidation => {
            let cause = std::error::Error::source(error).map(|cause| localized(&cause.to_string()));
            format!("{argument} 的值 {value} 无效{}", cause.map(|cause| format!("：{cause}")).unwrap_or_default())
        }
        ErrorKind::ArgumentConflict => {
            format!("{argument} 不能与 {} 同时使用", told(ContextKind::PriorArg).unwrap_or_default())
        }
        ErrorKind::TooManyValues | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("{argument} 的值的个数不对")
        }
        _ => return None,
    };
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => format!("\n\n{}", usage.to_string().replacen("Usage: ", "用法：", 1)),
        _ => String::new(),
    };
    Some(format!("{why}{usage}\n\n更多信息见 --help"))
}

fn catalogue() -> &'static HashMap<&'static str, &'static str> {
    static TEXTS: OnceLock<HashMap<&str, &str>> = OnceLock::new();
    TEXTS.get_or_init(|| CHINESE.lines().filter_map(|line| line.split_once('\t')).collect())
}

fn chinese(text: &str) -> Option<&'static str> {
    catalogue().get(text.replace('\n', " ").as_str()).copied()
}

/// The command line's description with Chinese texts. What has none stays English.
pub(crate) fn in_chinese(command: Command) -> Command {
    let texts =
        |of: &dyn Fn(&Command) -> Option<String>, command: &Command| of(command).and_then(|text| chinese(&text));
    let about = texts(&|c| c.get_about().map(ToString::to_string), &command);
    let long = texts(&|c| c.get_long_about().map(ToString::to_string), &command);
    let after = texts(&|c| c.get_after_help().map(ToString::to_string), &command);
    let mut command = command.help_template(TEMPLATE).subcommand_help_heading("命令").mut_args(argument);
    if let Some(about) = about {
        command = command.about(about);
    }
    if let Some(long) = long {
        command = command.long_about(long);
    }
    if let Some(after) = after {
        command = command.after_help(after);
    }
    // Clap adds these of its own accord, in English.
    if !command.is_disable_help_flag_set() {
        let help = Arg::new("help").short('h').long("help").action(ArgAction::Help);
        command = command.disable_help_flag(true).arg(help.help("显示帮助").help_heading("选项"));
    }
    if command.get_name() == "berth" {
        let version = Arg::new("version").short('V').long("version").action(ArgAction::Version);
        command = command.disable_version_flag(true).arg(version.help("显示版本").help_heading("选项"));
    }
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, in_chinese);
    }
    command
}

fn argument(argument: Arg) -> Arg {
    let help = argument.get_help().map(ToString::to_string).and_then(|text| chinese(&text));
    let long = argument.get_long_help().map(ToString::to_string).and_then(|text| chinese(&text));
    let heading = match argument.get_help_heading() {
        Some(heading) => chinese(heading).unwrap_or(heading.to_owned().leak()),
        None if argument.is_positional() => "参数",
        None => "选项",
    };
    let mut argument = argument.help_heading(heading);
    if let Some(help) = help {
        argument = argument.help(help);
    }
    if let Some(long) = long {
        argument = argument.long_help(long);
    }
    argument
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Command, CommandFactory};

    use super::{catalogue, in_chinese};

    fn collect(command: &Command, texts: &mut BTreeSet<String>) {
        if command.is_hide_set() {
            return;
        }
        let mut add = |text: Option<String>| {
            if let Some(text) = text {
                texts.insert(text.replace('\n', " "));
            }
        };
        add(command.get_about().map(ToString::to_string));
        add(command.get_long_about().map(ToString::to_string));
        add(command.get_after_help().map(ToString::to_string));
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            add(argument.get_help().map(ToString::to_string));
            add(argument.get_long_help().map(ToString::to_string));
            add(argument.get_help_heading().map(str::to_owned));
        }
        for sub in command.get_subcommands() {
            collect(sub, texts);
        }
    }

    #[test]
    fn every_help_text_is_there_in_chinese() {
        let mut texts = BTreeSet::new();
        collect(&super::super::Cli::command(), &mut texts);
        let missing: Vec<&String> = texts.iter().filter(|text| !catalogue().contains_key(text.as_str())).collect();
        assert!(
            missing.is_empty(),
            "no Chinese in help.zh.tsv for:\n{}",
            missing.iter().map(|t| format!("{t}\n")).collect::<String>()
        );
        let stale: Vec<_> = catalogue().keys().filter(|text| !texts.contains(**text)).collect();
        assert!(stale.is_empty(), "nobody says any more: {stale:#?}");
    }

    #[test]
    fn refusals_of_the_parser_are_chinese() {
        for (line, expected) in [
            ("berth run", "缺少参数：<IMAGE>"),
            ("berth run --memory 1x busybox", "--memory <MEMORY> 的值 1x 无效："),
            ("berth serve --engine steam", "--engine <ENGINE> 的值 steam 无效，可选：embedded、kubernetes"),
        ] {
            let words = line.split(' ');
            let error = in_chinese(super::super::Cli::command()).try_get_matches_from(words).expect_err(line);
            let told = super::refusal(&error).unwrap_or_default();
            assert!(told.starts_with(expected), "{line}: {told}");
        }
    }

    #[test]
    fn the_chinese_command_line_is_whole() {
        let command = in_chinese(super::super::Cli::command());
        command.clone().debug_assert();
        let help = command.clone().render_help().to_string();
        assert!(help.contains("用法") && help.contains("启动服务器"), "{help}");
    }
}
