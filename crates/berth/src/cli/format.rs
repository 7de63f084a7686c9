//! `--format`: Docker's templates, which are Go's, in the measure in which people use them: fields, `json`, `range`, `if`, `join` and
//! a few more. They are turned into templates of MiniJinja.

use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value;

use super::output;

/// How a list is printed.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Format {
    /// table, json, or a template such as '{{.Names}}\t{{.Status}}' (after 'table ' with a head)
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// A template that is ready to be used.
pub(super) struct Template {
    environment: Environment<'static>,
    source: String,
}

/// Where the bracket ends that the text begins with.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted) = (0, None);
    for (at, c) in text.char_indices() {
        match (quoted, c) {
            (Some(quote), c) if c == quote => quoted = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quoted = Some(c),
            (None, '(') => depth += 1,
            (None, ')') if depth == 1 => return Some(at),
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

/// An expression of Go's templates, as one of MiniJinja.
fn expression(text: &str) -> Result<String, String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = match rest.as_bytes()[0] {
            quote @ (b'"' | b'`') => {
                let close = rest[1..].find(char::from(quote)).ok_or_else(|| format!("{text}: a quote has no end"))?;
                close + 2
            }
            b'(' => {
                let close = closing(rest).ok_or_else(|| format!("{text}: a bracket has no end"))?;
                // A field of what is in the bracket may follow.
                rest[close..].find(char::is_whitespace).map_or(rest.len(), |end| close + end)
            }
            _ => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    let atom = |word: &str| -> Result<String, String> {
        if word.starts_with('(')
            && let Some(close) = closing(word)
        {
            return Ok(format!("({}){}", expression(&word[1..close])?, &word[close + 1..]));
        }
        if matches!(word, "true" | "false") {
            return Ok(word.to_owned());
        }
        if word.starts_with('"') || word.parse::<f64>().is_ok() {
            return Ok(word.to_owned());
        }
        if let Some(raw) = word.strip_prefix('`') {
            return Ok(format!("\"{}\"", raw.trim_end_matches('`')));
        }
        if let Some(variable) = word.strip_prefix('$') {
            let (name, fields) =
                variable.split_once('.').map_or((variable, None), |(name, fields)| (name, Some(fields)));
            let name = if name.is_empty() { "root".to_owned() } else { format!("v_{name}") };
            return Ok(fields.map_or(name.clone(), |fields| format!("{name}.{fields}")));
        }
        match word {
            "." => Ok("this".into()),
            field if field.starts_with('.') => Ok(format!("this{field}")),
            other => Err(format!("{text}: {other} is not known; .Field, json, join, range and if are")),
        }
    };
    let all = |from: usize| words[from..].iter().map(|w| atom(w)).collect::<Result<Vec<_>, _>>();
    let filter = |name: &str| Ok(format!("({})|{name}", all(1)?.join(" ")));
    match words.first().map(String::as_str) {
        None => Err("an empty expression".into()),
        Some("json") => filter("json"),
        Some("len") => filter("length"),
        Some("upper") => filter("upper"),
        Some("lower") => filter("lower"),
        Some("title") => filter("title"),
        Some("not") => Ok(format!("not ({})", all(1)?.join(" "))),
        Some("println" | "print") => Ok(all(1)?.join(" ~ \" \" ~ ")),
        Some("join") => {
            let all = all(1)?;
            let [list, by] = all.as_slice() else { return Err(format!("{text}: join LIST SEPARATOR")) };
            Ok(format!("({list})|join({by})"))
        }
        Some("split") => {
            let all = all(1)?;
            let [list, by] = all.as_slice() else { return Err(format!("{text}: split TEXT SEPARATOR")) };
            Ok(format!("({list})|split({by})"))
        }
        Some("index") => {
            let all = all(1)?;
            let (of, keys) = all.split_first().ok_or_else(|| format!("{text}: index OF KEY"))?;
            Ok(keys.iter().fold(of.clone(), |of, key| format!("{of}[{key}]")))
        }
        Some(word @ ("eq" | "ne" | "and" | "or")) => {
            let sign = match word {
                "eq" => "==",
                "ne" => "!=",
                other => other,
            };
            Ok(format!("({})", all(1)?.join(&format!(" {sign} "))))
        }
        Some(word) if words.len() == 1 => atom(word),
        Some(_) => Err(format!("{text}: not understood; .Field, json, join, range and if are")),
    }
}

/// A template of Go as one of MiniJinja.
fn translated(template: &str) -> Result<String, String> {
    // What a shell leaves as it is, Docker's templates understand.
    let mut rest: &str = &template.replace("\\t", "\t").replace("\\n", "\n");
    let (mut out, mut open) = (String::new(), Vec::new());
    let literal = |text: &str| if text.is_empty() { String::new() } else { format!("{{{{ {} }}}}", Value::from(text)) };
    while let Some(begin) = rest.find("{{") {
        out += &literal(&rest[..begin]);
        let end = rest[begin..].find("}}").ok_or_else(|| format!("{template}: {{{{ without }}}}"))? + begin;
        let action = rest[begin + 2..end].trim_matches(|c: char| c == '-' || c.is_whitespace());
        rest = &rest[end + 2..];
        let (word, argument) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
        match word {
            "range" => {
                let (names, list) = argument.split_once(":=").map_or((None, argument), |(n, l)| (Some(n), l));
                let names: Vec<_> =
                    names.unwrap_or_default().split(',').map(|n| n.trim().trim_start_matches('$')).collect();
                let list = expression(list)?;
                out += &match names.as_slice() {
                    [key, value] => {
                        format!("{{% for v_{key}, v_{value} in ({list})|items %}}{{% set this = v_{value} %}}")
                    }
                    [value] if !value.is_empty() => {
                        format!("{{% for v_{value} in ({list})|values %}}{{% set this = v_{value} %}}")
                    }
                    _ => format!("{{% for this in ({list})|values %}}"),
                };
                open.push("endfor");
            }
            "if" => {
                out += &format!("{{% if {} %}}", expression(argument)?);
                open.push("endif");
            }
            "with" => {
                out += &format!("{{% with this = {} %}}", expression(argument)?);
                open.push("endwith");
            }
            "else" if argument.is_empty() => out += "{% else %}",
            "else" => out += &format!("{{% elif {} %}}", expression(argument.trim_start_matches("if "))?),
            "end" => {
                let word = open.pop().ok_or_else(|| format!("{template}: end without range or if"))?;
                out += &format!("{{% {word} %}}");
            }
            _ => out += &format!("{{{{ {} }}}}", expression(action)?),
        }
    }
    if !open.is_empty() {
        return Err(format!("{template}: range or if without end"));
    }
    out += &literal(rest);
    Ok(out)
}

/// What `range` goes over: a list, or the values of a table.
fn values(of: minijinja::Value) -> Result<minijinja::Value, minijinja::Error> {
    if of.kind() != minijinja::value::ValueKind::Map {
        return Ok(of);
    }
    of.try_iter()?.map(|key| of.get_item(&key)).collect::<Result<Vec<_>, _>>().map(minijinja::Value::from)
}

/// JSON as Docker writes it: without spaces.
fn json(of: minijinja::Value) -> Result<String, minijinja::Error> {
    let wrong = |e: serde_json::Error| minijinja::Error::new(minijinja::ErrorKind::BadSerialization, e.to_string());
    serde_json::to_string(&of).map_err(wrong)
}

impl Template {
    /// Reads a template.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_filter("values", values);
        environment.add_filter("json", json);
        let source = translated(text).map_err(|e| format!("--format {e}"))?;
        Ok(Self { environment, source })
    }

    /// A line for a value.
    pub(super) fn line(&self, value: &Value) -> Result<String, String> {
        let value_of = minijinja::Value::from(minijinja::value::Serde(value));
        let values = minijinja::context! { this => value_of.clone(), root => value_of };
        self.environment.render_str(&self.source, values).map_err(|error| {
            let known = value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default();
            format!("--format: {}; fields here: {known}", error.detail().unwrap_or("it can't be applied"))
        })
    }
}

/// Prints rows as they are asked for. `columns` are heads and the fields below them, for the table that is usual.
pub(super) fn print(format: &Format, rows: &[Value], columns: &[(&str, &str)]) -> Result<(), String> {
    let text = |row: &Value, field: &str| match &row[field] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let Some(format) = format.format.as_deref().filter(|f| *f != "table") else {
        let heads: Vec<_> = columns.iter().map(|(head, _)| *head).collect();
        let cells = |row: &Value| columns.iter().map(|(_, field)| text(row, field)).collect();
        output::table(&heads, &rows.iter().map(cells).collect::<Vec<_>>());
        return Ok(());
    };
    if format == "json" {
        rows.iter().for_each(|row| println!("{row}"));
        return Ok(());
    }
    let Some(template) = format.strip_prefix("table ") else {
        let template = Template::new(format)?;
        for row in rows {
            println!("{}", output::harmless(&template.line(row)?));
        }
        return Ok(());
    };
    // The head is what stands in the template's fields.
    let template = template.replace("\\t", "\t");
    let columns: Vec<&str> = template.split('\t').collect();
    let name = |column: &&str| {
        let name = column.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        name.rsplit(['.', ' ']).next().unwrap_or(name).to_uppercase()
    };
    let heads: Vec<String> = columns.iter().map(name).collect();
    let templates = columns.iter().map(|column| Template::new(column)).collect::<Result<Vec<_>, _>>()?;
    let mut cells = Vec::new();
    for row in rows {
        cells.push(templates.iter().map(|template| template.line(row)).collect::<Result<Vec<_>, _>>()?);
    }
    output::table(&heads.iter().map(String::as_str).collect::<Vec<_>>(), &cells);
    Ok(())
}

impl Format {
    /// Whether another form than the table was asked for.
    pub(super) fn is_given(&self) -> bool {
        self.format.is_some()
    }

    /// Prints one thing: pretty JSON unless a template was given.
    pub(super) fn one(&self, value: &Value) -> Result<(), String> {
        match self.format.as_deref() {
            None => output::json(value),
            Some("json") => {
                println!("{value}");
                Ok(())
            }
            Some(template) => {
                println!("{}", output::harmless(&Template::new(template)?.line(value)?));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Template;

    fn line(template: &str) -> Result<String, String> {
        let value = json!({
            "Names": "web", "Status": "Up", "Count": 3, "List": ["a", "b"], "Empty": [],
            "State": { "Status": "running", "Running": true }, "Map": { "k-1": { "IP": "10.0.0.1" } },
            "Ports": { "80/tcp": [{ "HostPort": "8085" }] }
        });
        Template::new(template)?.line(&value)
    }

    #[test]
    fn templates_that_people_use_work() {
        for (template, wanted) in [
            ("{{.Names}}", "web"),
            ("{{ .Names }}\\t{{.Status}}", "web\tUp"),
            ("{{.State.Status}}", "running"),
            ("{{json .State.Running}}", "true"),
            ("{{json .List}}", "[\"a\",\"b\"]"),
            ("{{join .List \",\"}}", "a,b"),
            ("{{range .List}}{{.}};{{end}}", "a;b;"),
            ("{{range $k, $v := .Map}}{{$k}}={{$v.IP}}{{end}}", "k-1=10.0.0.1"),
            ("{{range .Map}}{{.IP}}{{end}}", "10.0.0.1"),
            ("{{if .State.Running}}yes{{else}}no{{end}}", "yes"),
            ("{{if eq .Names \"x\"}}yes{{else}}no{{end}}", "no"),
            ("{{(index .Map \"k-1\").IP}}", "10.0.0.1"),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8085"),
            ("{{range $p, $c := .Ports}}{{$p}} {{(index $c 0).HostPort}}{{end}}", "80/tcp 8085"),
            ("{{if eq .State.Running true}}yes{{end}}", "yes"),
            ("{{len .List}} {{upper .Names}}", "2 WEB"),
            ("plain {% raw %}", "plain {% raw %}"),
        ] {
            assert_eq!(line(template).as_deref(), Ok(wanted), "{template}");
        }
        assert_eq!(line("{{json .}}").expect("json").parse::<serde_json::Value>().expect("json")["Count"], 3);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = line("{{.Nmaes}}").expect_err("unknown field");
        assert!(error.contains("fields here") && error.contains("Names"), "{error}");
        for wrong in ["{{.Names", "{{range .List}}", "{{end}}", "{{foo .Names}}", "{{}}"] {
            assert!(line(wrong).is_err(), "{wrong}");
        }
    }
}
