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

/// All keys: those of the file's own first, then table by table.
fn keys() -> Vec<Key> {
    let generator = schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = generator.into_generator().into_root_schema_for::<Settings>();
    let defaults = toml::Value::try_from(Settings::default()).ok();
    let mut keys = Vec::new();
    collect("", schema.as_value(), defaults.as_ref(), &mut keys);
    keys.sort_by(|a, b| (&a.table, &a.name).cmp(&(&b.table, &b.name)));
    keys
}

/// A settings file with every key in a comment.
pub(crate) fn example() -> String {
    let mut text = String::from(
        "# Settings of berth. Each key stands here with its default; take the # away to change it.\n\
         # `berth config check` says what is wrong with this file, `systemctl reload berth` applies most changes without a restart.\n",
    );
    let mut table = String::new();
    for key in keys() {
        if key.table != table {
            table.clone_from(&key.table);
            let _ = write!(text, "\n[{table}]\n");
        }
        text.push('\n');
        let mut line = String::from("#");
        for word in key.meaning.split(' ') {
            if line.len() + word.len() >= WIDTH {
                text += &line;
                text.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line += word;
        }
        text += &line;
        text.push('\n');
        let _ = match &key.default {
            Some(default) => writeln!(text, "#{} = {default}", key.name),
            None => writeln!(text, "#{} =", key.name),
        };
    }
    text += "\n# Tables whose names are yours, with examples in docs/configuration.md:\n";
    for name in NAMED {
        let _ = writeln!(text, "# [{name}.\"…\"]");
    }
    text
}

/// The table of the manual.
#[cfg(test)]
fn table() -> String {
    let mut text = String::from("| key | default | meaning |\n|---|---|---|\n");
    for key in keys() {
        let path = if key.table.is_empty() { key.name } else { format!("{}.{}", key.table, key.name) };
        let default = key.default.map_or_else(|| "none".to_owned(), |d| format!("`{d}`"));
        let _ = writeln!(text, "| `{path}` | {default} | {} |", key.meaning.replace('|', "\\|"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{example, keys, table};
    use crate::settings::Settings;

    const BEGIN: &str = "<!-- The table is made by `BERTH_WRITE_DOCS=1 cargo test -p berth settings`. -->\n\n";

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
        let described: Vec<_> = keys()
            .into_iter()
            .map(|k| {
                assert!(k.meaning.len() > 10, "{}.{} has no meaning", k.table, k.name);
                if k.table.is_empty() { k.name } else { format!("{}.{}", k.table, k.name) }
            })
            .collect();
        assert!(of_values.len() > 60);
        for key in of_values {
            assert!(described.contains(&key), "{key} is not described");
        }
    }

    #[test]
    fn the_manual_has_the_table_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let manual = std::fs::read_to_string(path).expect("docs/configuration.md");
        let begin = manual.find(BEGIN).expect("the table's beginning") + BEGIN.len();
        let length = manual[begin..].find("\n## ").expect("what follows the table");
        let wanted = table();
        if std::env::var_os("BERTH_WRITE_DOCS").is_some() {
            let fresh = format!("{}{wanted}{}", &manual[..begin], &manual[begin + length..]);
            std::fs::write(path, fresh).expect("docs/configuration.md");
        } else {
            assert_eq!(&manual[begin..begin + length], wanted, "docs/configuration.md is stale");
        }
    }

    #[test]
    fn the_example_is_a_settings_file_with_and_without_its_comments() {
        let folder = std::env::temp_dir().join(format!("berth-example-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let path = folder.join("berth.toml");
        std::fs::write(&path, example()).expect("write");
        Settings::load(Some(&path)).expect("as it is");
        let is_key =
            |line: &str| line.strip_prefix('#').is_some_and(|l| l.starts_with(|c: char| c.is_ascii_lowercase()));
        let open = |line: &str| match line {
            line if is_key(line) && !line.ends_with('=') => line[1..].to_owned(),
            line => line.to_owned(),
        };
        let all: Vec<_> = example().lines().map(open).collect();
        assert!(all.iter().any(|line| line == "listen = \"127.0.0.1:8080\""), "{all:?}");
        std::fs::write(&path, all.join("\n")).expect("write");
        let read = Settings::load(Some(&path)).expect("all defaults");
        let text = |settings: &Settings| toml::to_string(settings).expect("toml");
        assert_eq!(text(&read), text(&Settings::default()), "the example's values are the defaults");
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
