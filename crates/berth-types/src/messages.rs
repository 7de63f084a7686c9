//! Messages for people in another language than English. A message is made in English where it arises; here it is recognised by
//! its form, and said in the reader's language.

use std::sync::OnceLock;

/// A line a message: English with `{}` for what varies, a tab, Chinese with `{}` in the same order or `{0}`, `{1}` … in its own. What
/// varies stays as it is, names above all; a `*` in the braces says that it is a message itself.
const CHINESE: &str = include_str!("messages.zh.tsv");

/// How deep messages may be within messages.
const DEPTH: u32 = 4;

struct Form {
    parts: Vec<&'static str>,
    chinese: &'static str,
    /// Letters that do not vary: of several forms that fit, the one with most says most.
    fixed: usize,
}

fn forms() -> &'static [Form] {
    static FORMS: OnceLock<Vec<Form>> = OnceLock::new();
    FORMS.get_or_init(|| {
        let mut all: Vec<Form> = CHINESE
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(english, chinese)| {
                let parts: Vec<_> = english.split("{}").collect();
                Form { fixed: parts.iter().map(|part| part.len()).sum(), parts, chinese }
            })
            .collect();
        all.sort_by_key(|form| std::cmp::Reverse(form.fixed));
        all
    })
}

/// What varies in a message of this form.
fn varying<'a>(parts: &[&str], text: &'a str) -> Option<Vec<&'a str>> {
    let (first, rest) = parts.split_first()?;
    let mut text = text.strip_prefix(first)?;
    let Some((last, middle)) = rest.split_last() else { return text.is_empty().then(Vec::new) };
    let mut found = Vec::with_capacity(rest.len());
    for part in middle {
        let at = text.find(part)?;
        found.push(&text[..at]);
        text = &text[at + part.len()..];
    }
    found.push(text.strip_suffix(last)?);
    Some(found)
}

fn fill(chinese: &str, values: &[&str], depth: u32) -> String {
    let mut text = String::new();
    let mut next = 0;
    let mut rest = chinese;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let Some((number, after)) = after.split_once('}') else { break };
        let is_message = number.ends_with('*');
        let index = number.trim_end_matches('*').parse().unwrap_or(next);
        next += 1;
        let value = values.get(index).copied().unwrap_or_default();
        match is_message.then(|| translate(value, depth)).flatten() {
            Some(message) => text.push_str(&message),
            None => text.push_str(value),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

fn translate(text: &str, depth: u32) -> Option<String> {
    if depth == 0 {
        return None;
    }
    for form in forms() {
        if let Some(values) = varying(&form.parts, text) {
            return Some(fill(form.chinese, &values, depth - 1));
        }
    }
    // A field or a path, and what is wrong with it.
    let (what, why) = text.split_once(": ")?;
    let is_name = !what.is_empty() && !what.contains(' ');
    is_name.then(|| translate(why, depth - 1)).flatten().map(|why| format!("{what}：{why}"))
}

/// A message in Chinese; `None` for one whose form is not known.
pub fn in_chinese(text: &str) -> Option<String> {
    translate(text, DEPTH)
}

#[cfg(test)]
mod tests {
    use super::{CHINESE, forms, in_chinese};

    #[test]
    fn messages_are_recognised_by_their_form() {
        for (english, chinese) in [
            ("no such container: web", "没有这个容器：web"),
            ("a container named \"a\" exists already", "名为 \"a\" 的容器已存在"),
            ("port tcp/80 of the host is in use", "主机端口 tcp/80 已被占用"),
            ("memory: expected 4 to 2^63-1", "memory：应为 4 到 2^63-1"),
            (
                "2 of CPUs are too much for the account's quota: 1 of 2.5 are taken by containers that run",
                "CPUs 2 超出账户配额：运行中的容器已使用 2.5 中的 1",
            ),
            ("internal error", "内部错误"),
            ("no such container: image", "没有这个容器：image"),
        ] {
            assert_eq!(in_chinese(english).as_deref(), Some(chinese));
        }
        assert_eq!(in_chinese("something that nobody has translated"), None);
        assert_eq!(in_chinese(""), None);
    }

    #[test]
    fn both_languages_have_the_same_that_varies() {
        assert_eq!(forms().len(), CHINESE.lines().count(), "a line without a tab");
        for form in forms() {
            assert!(form.fixed > 0, "{}: fits everything", form.chinese);
            assert_eq!(form.chinese.matches('{').count(), form.parts.len() - 1, "{}", form.chinese);
        }
    }
}
