//! What there is to set, from the types: names and defaults from their values, meanings from their doc comments.

use std::fmt::Write;

use super::Settings;

/// One key.
struct Key {
    /// Tables above it, `core.host`; empty for the file's own.
    table: String,
    name: String,
    /// As TOML; `None` where there is none.
    default: Option<String>,
    meaning: String,
}

/// Tables whose keys are names that the operator gives.
const NAMED: [&str; 4] = ["core.runtimes", "core.plans.specs", "core.plans.images", "registries.hosts"];
/// Longest line of a comment.
const WIDTH: usize = 100;

fn collect(table: &str, schema: &serde_json::Value, defaults: Option<&toml::Value>, keys: &mut Vec<Key>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, schema) in properties {
        let path = if table.is_empty() { name.clone() } else { format!("{table}.{name}") };
        if NAMED.contains(&path.as_str()) {
            continue;
        }
        let default = defaults.and_then(|table| table.get(name));
        if schema["properties"].is_object() {
            collect(&path, schema, default, keys);
            continue;
        }
        let meaning =
            schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        keys.push(Key {
            table: table.to_owned(),
            name: name.clone(),
            default: default.map(ToString::to_string),
            meaning,
        });
    }
}

/// Meanings in English and in Chinese.
const IN_CHINESE: &str = include_str!("meanings.zh.tsv");

impl Key {
    #[cfg(test)]
    fn path(&self) -> String {
        if self.table.is_empty() { self.name.clone() } else { format!("{}.{}", self.table, self.name) }
    }

    fn in_chinese(&self) -> Option<&'static str> {
        let mut all = IN_CHINESE.lines().filter_map(|line| line.split_once('\t'));
        all.find(|(meaning, _)| *meaning == self.meaning).map(|(_, chinese)| chinese)
    }
}

/// All keys: those of the file's own first, then table by table.
fn keys(chinese: bool) -> Vec<Key> {
    let generator = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = generator.into_generator().into_root_schema_for::<Settings>();
    let defaults = toml::Value::try_from(Settings::default()).ok();
    let mut keys = Vec::new();
    collect("", schema.as_value(), defaults.as_ref(), &mut keys);
    keys.sort_by(|a, b| (&a.table, &a.name).cmp(&(&b.table, &b.name)));
    if chinese {
        for key in &mut keys {
            key.meaning = key.in_chinese().map_or_else(|| key.meaning.clone(), str::to_owned);
        }
    }
    keys
}

/// Breaks a text into comment lines: between words, and between characters that are twice as wide as a letter.
fn comment(text: &mut String, meaning: &str) {
    let mut line = String::from("# ");
    let mut width = 2;
    let mut rest = meaning;
    while let Some(first) = rest.chars().next() {
        let is_wide = |c: char| c >= '\u{1100}';
        // A word with the space behind it, or one wide character.
        let end = if is_wide(first) {
            first.len_utf8()
        } else {
            rest.find(|c: char| c == ' ' || is_wide(c))
                .map_or(rest.len(), |at| at + usize::from(rest[at..].starts_with(' ')))
        };
        let (part, after) = rest.split_at(end);
        let long: usize = part.trim_end().chars().map(|c| if is_wide(c) { 2 } else { 1 }).sum();
        // No line begins with what ends a clause.
        let closes = part.starts_with(['，', '。', '；', '：', '、', '）', '”']);
        if width + long > WIDTH && width > 2 && !closes {
            *text += line.trim_end();
            text.push('\n');
            line = String::from("# ");
            width = 2;
        }
        line += part;
        width += long + usize::from(part.ends_with(' '));
        rest = after;
    }
    *text += line.trim_end();
    text.push('\n');
}

/// A settings file with every key in a comment.
pub(crate) fn example(chinese: bool) -> String {
    let mut text = String::from(if chinese {
        "# berth 的设置。每个键及其默认值都列在这里；去掉行首的 # 即可修改。\n\
         # `berth config check` 检查本文件的错误；`systemctl reload berth` 让大多数修改无需重启即可生效。\n"
    } else {
        "# Settings of berth. Each key stands here with its default; take the # away to change it.\n\
         # `berth config check` says what is wrong with this file, `systemctl reload berth` applies most changes without a restart.\n"
    });
    let mut table = String::new();
    for key in keys(chinese) {
        if key.table != table {
            table.clone_from(&key.table);
            let _ = write!(text, "\n[{table}]\n");
        }
        text.push('\n');
        comment(&mut text, &key.meaning);
        let _ = match &key.default {
            Some(default) => writeln!(text, "#{} = {default}", key.name),
            None => writeln!(text, "#{} =", key.name),
        };
    }
    text += if chinese {
        "\n# 名称由您自定的表，示例见 docs/zh/configuration.md：\n"
    } else {
        "\n# Tables whose names are yours, with examples in docs/configuration.md:\n"
    };
    for name in NAMED {
        let _ = writeln!(text, "# [{name}.\"…\"]");
    }
    text
}

/// The table of the manual.
#[cfg(test)]
fn table(chinese: bool) -> String {
    let head = if chinese { "| 键 | 默认值 | 含义 |" } else { "| key | default | meaning |" };
    let mut text = format!("{head}\n|---|---|---|\n");
    for key in keys(chinese) {
        let path = key.path();
        let none = if chinese { "无" } else { "none" };
        let default = key.default.map_or_else(|| none.to_owned(), |d| format!("`{d}`"));
        let _ = writeln!(text, "| `{path}` | {default} | {} |", key.meaning.replace('|', "\\|"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{example, keys, table};
    use crate::settings::Settings;

    #[test]
    fn every_key_of_the_settings_is_described() {
        fn leaves(prefix: &str, value: &toml::Value, all: &mut Vec<String>) {
            match value {
                toml::Value::Table(table) if !super::NAMED.contains(&prefix) => {
                    for (key, value) in table {
                        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                        leaves(&path, value, all);
                    }
                }
                toml::Value::Table(_) => {}
                _ => all.push(prefix.to_owned()),
            }
        }
        let mut of_values = Vec::new();
        leaves("", &toml::Value::try_from(Settings::default()).expect("toml"), &mut of_values);
        let described: Vec<_> = keys(false)
            .into_iter()
            .map(|k| {
                assert!(k.meaning.len() > 10, "{} has no meaning", k.path());
                assert!(k.in_chinese().is_some_and(|text| !text.is_empty()), "{} has no meaning in Chinese", k.path());
                k.path()
            })
            .collect();
        let mut translated: Vec<_> =
            super::IN_CHINESE.lines().filter_map(|line| Some(line.split_once('\t')?.0)).collect();
        for meaning in &translated {
            assert!(
                keys(false).iter().any(|key| key.meaning == *meaning),
                "translated, and the meaning of no key: {meaning}"
            );
        }
        let all = translated.len();
        translated.sort_unstable();
        translated.dedup();
        assert_eq!(translated.len(), all, "translated twice");
        assert!(of_values.len() > 60);
        for key in of_values {
            assert!(described.contains(&key), "{key} is not described");
        }
    }

    #[test]
    fn the_manual_has_the_table_of_the_types() {
        for (page, chinese) in [("docs/configuration.md", false), ("docs/zh/configuration.md", true)] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
            let manual = std::fs::read_to_string(&path).expect("the manual's page");
            let begin = manual.find("-->\n\n").expect("the table's beginning") + "-->\n\n".len();
            let length = manual[begin..].find("\n## ").expect("what follows the table");
            let wanted = table(chinese);
            if std::env::var_os("BERTH_WRITE_DOCS").is_some() {
                let fresh = format!("{}{wanted}{}", &manual[..begin], &manual[begin + length..]);
                std::fs::write(path, fresh).expect("write");
            } else {
                assert_eq!(&manual[begin..begin + length], wanted, "{page} is stale");
            }
        }
    }

    #[test]
    fn comments_are_broken_between_words_and_wide_characters() {
        let broken = |text: &str| {
            let mut all = String::new();
            super::comment(&mut all, text);
            all
        };
        let long = "word ".repeat(40);
        assert!(broken(long.trim()).lines().all(|line| line.len() <= super::WIDTH && line.starts_with("# word")));
        let wide = broken(&"容器".repeat(60));
        assert!(
            wide.lines().count() > 1 && wide.lines().all(|line| line.chars().count() <= 2 + super::WIDTH / 2),
            "{wide}"
        );
        assert_eq!(broken("a `b c` d"), "# a `b c` d\n");
    }

    #[test]
    fn the_example_is_a_settings_file_with_and_without_its_comments() {
        let folder = std::env::temp_dir().join(format!("berth-example-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let path = folder.join("berth.toml");
        std::fs::write(&path, example(true)).expect("write");
        Settings::load(Some(&path)).expect("in Chinese");
        std::fs::write(&path, example(false)).expect("write");
        Settings::load(Some(&path)).expect("as it is");
        let is_key =
            |line: &str| line.strip_prefix('#').is_some_and(|l| l.starts_with(|c: char| c.is_ascii_lowercase()));
        let open = |line: &str| match line {
            line if is_key(line) && !line.ends_with('=') => line[1..].to_owned(),
            line => line.to_owned(),
        };
        let all: Vec<_> = example(false).lines().map(open).collect();
        assert!(all.iter().any(|line| line == "listen = \"127.0.0.1:8080\""), "{all:?}");
        std::fs::write(&path, all.join("\n")).expect("write");
        let read = Settings::load(Some(&path)).expect("all defaults");
        let text = |settings: &Settings| toml::to_string(settings).expect("toml");
        assert_eq!(text(&read), text(&Settings::default()), "the example's values are the defaults");
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
