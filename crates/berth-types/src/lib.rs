//! Words that all parts of the core share.

mod extras;
mod fault;
mod field;
mod histogram;
mod messages;

pub use extras::{Extras, HOST_GATEWAY, NamedAddress, Ulimit};
pub use fault::FaultKind;
pub use field::Field;
pub use histogram::{Histogram, Outcomes};
pub use messages::{Message, in_chinese};

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<i64>,
}

/// The current time, nanoseconds since 1970.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The bytes of hexadecimal digits in either case; `None` for any other text.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

/// Random bytes that nobody can guess.
///
/// # Panics
/// The kernel gives none: there is no safe way on.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap_or_else(|error| panic!("getrandom: {error}"));
    bytes
}

/// So many random bytes in hexadecimal: ids and secrets.
///
/// # Panics
/// The kernel gives none: there is no safe way on.
pub fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).unwrap_or_else(|error| panic!("getrandom: {error}"));
    hex(&buffer)
}
