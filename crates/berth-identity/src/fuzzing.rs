//! Entry points for fuzz targets.

use crate::{KeyBounds, signed_text, unsigned};

/// Addresses that a key may be used from, one a line; the last is where a request comes from.
pub fn addresses(text: &str) {
    let addresses: Vec<String> = text.lines().map(str::to_owned).collect();
    let from = addresses.last().and_then(|text| text.parse().ok());
    let bounds = KeyBounds { addresses, ..KeyBounds::default() };
    if bounds.check(&[]).is_ok() {
        let _ = bounds.allow(&unsigned("", "acs", "node_list", true, from));
    }
}

/// The text that is signed can be taken apart again: no two sets of parameters have the same.
///
/// # Panics
/// It can't.
pub fn signed(pairs: &[(&str, &str)]) {
    let text = signed_text("POST", pairs.iter().copied());
    let (method, rest) = text.split_once('\n').expect("method and line feed");
    assert_eq!(method, "POST");
    assert!(!rest.contains('\n'), "a line feed of a parameter is not encoded");
    assert_eq!(rest.split('&').count(), pairs.len(), "a parameter was read as several");
    assert!(rest.split('&').all(|part| part.matches('=').count() == 1), "{rest:?}");
}
