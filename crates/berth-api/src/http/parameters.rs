//! Parameters: credentials, path, query, form and JSON.

use axum::extract::Request;
use axum::http::{HeaderMap, header};

use super::body::{BodyError, small_body};

/// The token of `X-Token`, or of `Authorization` with one of the schemes `Bearer` and `Token`, in any case.
pub(crate) fn token_of(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty());
    if let Some(token) = text("x-token") {
        return Some(token.to_owned());
    }
    let (scheme, token) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token");
    (known && !token.trim().is_empty()).then(|| token.trim().to_owned())
}

/// The text of the path's only variable part; empty where it can't be decoded, so that it names nothing.
pub(crate) struct PathText(pub(crate) String);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for PathText {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Self::Rejection> {
        let text = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(text.map(|text| text.0).unwrap_or_default()))
    }
}

/// Parameters by name, wherever the client put them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Parameters(std::collections::BTreeMap<String, serde_json::Value>);

/// A parameter that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ParameterError {
    Missing(&'static str),
    Wrong {
        name: &'static str,
        expected: &'static str,
        found: String,
    },
    /// The body as a whole.
    Body(String),
    /// The body is longer than [`LONGEST_BODY`].
    TooLong,
    /// The body did not arrive in time.
    Late,
}

/// What kind of JSON it is, where its value is nothing to repeat.
pub(crate) fn kind_of(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a truth value",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

impl Parameters {
    /// Reads query and body. A body that begins like JSON is JSON, whatever its `Content-Type` says; otherwise it is a
    /// form, which has a `=` at least. What the body says goes before the query.
    pub(crate) async fn of(request: Request) -> Result<Self, ParameterError> {
        Self::read(request, false).await
    }

    /// The same, where a form is one only with a form's `Content-Type`, and any other body has to be a JSON object.
    pub(crate) async fn strict(request: Request) -> Result<Self, ParameterError> {
        Self::read(request, true).await
    }

    async fn read(request: Request, strict: bool) -> Result<Self, ParameterError> {
        let mut all = Self::default();
        all.take_form(request.uri().query().unwrap_or_default().as_bytes());
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let form_allowed = !strict || essence.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        let body = small_body(request.into_body()).await.map_err(|error| match error {
            BodyError::TooLarge => ParameterError::TooLong,
            BodyError::Broken => ParameterError::Body("the body could not be read".into()),
            BodyError::Late => ParameterError::Late,
        })?;
        let first = body.iter().copied().find(|b| !b.is_ascii_whitespace());
        match first {
            None => {}
            Some(b'{' | b'[' | b'"') => match serde_json::from_slice(&body) {
                Ok(serde_json::Value::Object(object)) => all.0.extend(object),
                Ok(_) => return Err(ParameterError::Body("the body is JSON, but no object".into())),
                Err(error) => return Err(ParameterError::Body(format!("the body is not readable as JSON: {error}"))),
            },
            Some(_) if form_allowed && body.contains(&b'=') => all.take_form(&body),
            Some(_) => return Err(ParameterError::Body("the body is neither a JSON object nor a form".into())),
        }
        Ok(all)
    }

    /// Those of a query alone.
    pub(crate) fn of_query(query: &str) -> Self {
        let mut all = Self::default();
        all.take_form(query.as_bytes());
        all
    }

    /// A parameter as it came.
    pub(crate) fn value(&self, name: &str) -> Option<&serde_json::Value> {
        self.0.get(name)
    }

    fn take_form(&mut self, bytes: &[u8]) {
        for (name, value) in form_urlencoded::parse(bytes) {
            self.0.insert(name.into_owned(), serde_json::Value::String(value.into_owned()));
        }
    }

    /// Text that must be there and not be empty. What is there instead is not told: it may be a secret.
    pub(crate) fn text(&self, name: &'static str) -> Result<String, ParameterError> {
        match self.0.get(name) {
            None | Some(serde_json::Value::Null) => Err(ParameterError::Missing(name)),
            Some(serde_json::Value::String(text)) if text.is_empty() => Err(ParameterError::Missing(name)),
            Some(serde_json::Value::String(text)) => Ok(text.clone()),
            Some(serde_json::Value::Number(number)) => Ok(number.to_string()),
            Some(other) => Err(ParameterError::Wrong { name, expected: "a string", found: kind_of(other).to_owned() }),
        }
    }

    /// Text that may be there; empty is as good as none.
    pub(crate) fn optional(&self, name: &'static str) -> Result<Option<String>, ParameterError> {
        match self.text(name) {
            Ok(text) => Ok(Some(text)),
            Err(ParameterError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A truth value that may be there; false if it is not.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, ParameterError> {
        if let Some(serde_json::Value::Bool(value)) = self.0.get(name) {
            return Ok(*value);
        }
        match self.optional(name)?.map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(ParameterError::Wrong { name, expected: "true or false", found: other.to_owned() }),
        }
    }

    /// What is signed of a request with this method: all parameters but `signature`.
    pub(crate) fn signed(&self, method: &str) -> String {
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let all: Vec<(&String, String)> =
            self.0.iter().filter(|(name, _)| *name != "signature").map(|(name, value)| (name, text(value))).collect();
        berth_core::signed_text(method, all.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// A whole number that must be there; also as text.
    pub(crate) fn integer(&self, name: &'static str) -> Result<i64, ParameterError> {
        let wrong = |found: String| ParameterError::Wrong { name, expected: "a whole number", found };
        match self.0.get(name) {
            Some(serde_json::Value::Number(number)) => {
                let whole = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15).map(|f| f as i64);
                number.as_i64().or(whole).ok_or_else(|| wrong(number.to_string()))
            }
            Some(serde_json::Value::Bool(_) | serde_json::Value::Array(_) | serde_json::Value::Object(_)) => {
                Err(wrong(self.0[name].to_string()))
            }
            _ => {
                let text = self.text(name)?;
                text.trim().parse().map_err(|_| wrong(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::Request;

    use super::{ParameterError, Parameters, token_of};

    async fn parameters(query: &str, body: &str) -> Result<Parameters, ParameterError> {
        let request = Request::builder().uri(format!("/x?{query}")).body(Body::from(body.to_owned())).expect("request");
        Parameters::of(request).await
    }

    #[tokio::test]
    async fn parameters_come_from_anywhere() {
        let all = parameters("a=1&b=x%20y+z", "").await.expect("query");
        assert_eq!((all.integer("a"), all.text("b").as_deref()), (Ok(1), Ok("x y z")));
        let all = parameters("a=1", r#" {"a": 2, "c": "3", "d": 4.0, "e": null, "f": "", "g": [1], "h": true}"#)
            .await
            .expect("json");
        assert_eq!((all.integer("a"), all.integer("c"), all.integer("d")), (Ok(2), Ok(3), Ok(4)));
        assert_eq!(all.text("e"), Err(ParameterError::Missing("e")));
        assert_eq!(all.integer("f"), Err(ParameterError::Missing("f")));
        assert!(matches!(all.integer("g"), Err(ParameterError::Wrong { .. })));
        assert!(matches!(all.integer("h"), Err(ParameterError::Wrong { .. })));
        assert_eq!(all.integer("zz"), Err(ParameterError::Missing("zz")));
        let all = parameters("", "a=5&u=http%3A%2F%2Fx").await.expect("form");
        assert_eq!((all.integer("a"), all.text("u").as_deref()), (Ok(5), Ok("http://x")));
        for wrong in ["{", "[1]", "\"x\"", "{\"a\":"] {
            assert!(matches!(parameters("", wrong).await, Err(ParameterError::Body(_))), "{wrong}");
        }
    }

    #[test]
    fn encodings_that_are_cut_are_kept() {
        let decoded = |text: &str| Parameters::of_query(&format!("a={text}")).text("a").expect("text");
        assert_eq!(decoded("%4"), "%4");
        assert_eq!(decoded("%zz%"), "%zz%");
        assert_eq!(decoded("%E4%BD%A0"), "你");
    }

    #[test]
    fn tokens_are_found_in_any_scheme() {
        let with = |name: &str, value: &str| {
            let mut headers = axum::http::HeaderMap::new();
            headers.insert(
                axum::http::HeaderName::from_bytes(name.as_bytes()).expect("name"),
                value.parse().expect("value"),
            );
            token_of(&headers)
        };
        assert_eq!(with("x-token", "a").as_deref(), Some("a"));
        assert_eq!(with("authorization", "bEARER  a ").as_deref(), Some("a"));
        assert_eq!(with("authorization", "token a").as_deref(), Some("a"));
        assert_eq!(with("authorization", "Basic a"), None);
        assert_eq!(with("authorization", "Bearer "), None);
    }
}
