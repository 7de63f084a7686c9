//! Comparing answers with the examples of a document.

use serde_json::Value;

/// That what was found has the example's names and types all through, and a time of its form where it has one. Empty arrays
/// of the example hold anything.
///
/// # Panics
/// With the path of what differs.
pub fn same_shape(found: &Value, example: &Value, path: &str) {
    match (found, example) {
        (Value::Object(found), Value::Object(example)) => {
            let names =
                |o: &serde_json::Map<String, Value>| o.keys().cloned().collect::<std::collections::BTreeSet<_>>();
            assert_eq!(names(found), names(example), "{path}");
            for (name, value) in example {
                same_shape(&found[name], value, &format!("{path}.{name}"));
            }
        }
        (Value::Array(found), Value::Array(example)) => {
            for (index, item) in found.iter().enumerate() {
                if let Some(example) = example.first() {
                    same_shape(item, example, &format!("{path}[{index}]"));
                }
            }
        }
        (Value::String(text), Value::String(example)) => {
            if (path.ends_with("Time") || path.ends_with("_at")) && !text.is_empty() && !example.is_empty() {
                let digits =
                    |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
                assert_eq!(digits(text), digits(example), "{path}: {text}");
            }
        }
        (Value::Null, Value::Null) => {}
        (Value::Number(number), Value::Number(_)) => assert!(number.is_i64(), "{path}: {number}"),
        _ => panic!("{path} is {found}, the document shows {example}"),
    }
}
