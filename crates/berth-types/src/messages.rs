//! Messages for people in another language than English. A message is made in English where it arises; here it is recognised by
//! its form, and said in the reader's language.

use std::sync::OnceLock;

/// A line a message: English with `{}` for what varies, a tab, Chinese with `{}` in the same order or `{0}`, `{1}` … in its own. What
/// varies stays as it is, names above all; a `*` in the braces says that it is a message itself.
const CHINESE: &str = include_str!("messages.zh.tsv");

/// How deep messages may be within messages.
const DEPTH: u32 = 4;

struct Form {
    english: &'static str,
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
                Form { english, fixed: parts.iter().map(|part| part.len()).sum(), parts, chinese }
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

/// A sentence for people, taken apart: whoever knows the form can say it in another language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The sentence in English.
    pub text: String,
    /// What all sentences of its kind have in common: English with `{}` for each parameter. `None` for a name, a number, or a
    /// sentence of which no kind is known.
    pub form: Option<&'static str>,
    /// What varies, in the order of the form's places.
    pub parameters: Vec<Message>,
}

/// The form of a field or a path, and what is wrong with it.
static FIELD: Form = Form { english: "{}: {}", parts: Vec::new(), chinese: "{}：{*}", fixed: 0 };

/// The places of a Chinese form: the text before each, which parameter stands there, whether that is a sentence; then the rest.
fn places(chinese: &str) -> (Vec<(&str, usize, bool)>, &str) {
    let mut found = Vec::new();
    let mut rest = chinese;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((number, after)) = after.split_once('}') else { break };
        let index = number.trim_end_matches('*').parse().unwrap_or(found.len());
        found.push((before, index, number.ends_with('*')));
        rest = after;
    }
    (found, rest)
}

impl Message {
    /// Takes a sentence apart.
    pub fn of(text: &str) -> Self {
        recognise(text, DEPTH).unwrap_or_else(|| Self::name(text))
    }

    fn name(text: &str) -> Self {
        Self { text: text.to_owned(), form: None, parameters: Vec::new() }
    }
}

fn recognise(text: &str, depth: u32) -> Option<Message> {
    let depth = depth.checked_sub(1)?;
    let found = forms().iter().find_map(|form| varying(&form.parts, text).map(|values| (form, values)));
    let Some((form, values)) = found else {
        let (what, why) = text.split_once(": ").filter(|(what, _)| !what.is_empty() && !what.contains(' '))?;
        let why = recognise(why, depth)?;
        let parameters = vec![Message::name(what), why];
        return Some(Message { text: text.to_owned(), form: Some(FIELD.english), parameters });
    };
    let (places, _) = places(form.chinese);
    let parameter = |(index, value): (usize, &str)| {
        let is_sentence = places.iter().any(|(_, at, is_sentence)| *at == index && *is_sentence);
        is_sentence.then(|| recognise(value, depth)).flatten().unwrap_or_else(|| Message::name(value))
    };
    let parameters = values.into_iter().enumerate().map(parameter).collect();
    Some(Message { text: text.to_owned(), form: Some(form.english), parameters })
}

fn chinese_of(form: &str) -> Option<&'static str> {
    if form == FIELD.english {
        return Some(FIELD.chinese);
    }
    forms().iter().find(|known| known.english == form).map(|known| known.chinese)
}

fn say(message: &Message) -> String {
    let Some(chinese) = message.form.and_then(chinese_of) else { return message.text.clone() };
    let (places, rest) = places(chinese);
    let mut text = String::new();
    for (before, index, _) in places {
        text.push_str(before);
        text.push_str(&message.parameters.get(index).map(say).unwrap_or_default());
    }
    text + rest
}

/// A message in Chinese; `None` for one whose form is not known.
pub fn in_chinese(text: &str) -> Option<String> {
    let message = Message::of(text);
    message.form.is_some().then(|| say(&message))
}

#[cfg(test)]
mod tests {
    use super::{CHINESE, Message, forms, in_chinese};

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
    fn messages_are_taken_apart() {
        let message = Message::of("memory: no such container: web");
        assert_eq!((message.form, message.parameters[0].text.as_str()), (Some("{}: {}"), "memory"));
        let inner = &message.parameters[1];
        assert_eq!((inner.form, inner.text.as_str()), (Some("no such {}: {}"), "no such container: web"));
        // The kind is a sentence of its own, the name is none.
        let forms: Vec<_> = inner.parameters.iter().map(|each| (each.text.as_str(), each.form)).collect();
        assert_eq!(forms, [("container", Some("container")), ("web", None)]);
        assert_eq!(Message::of("nobody's words").form, None);
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
