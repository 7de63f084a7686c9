//! Content digests (OCI image specification, descriptor).

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A sha256 digest; written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    /// Of everything that can be read.
    ///
    /// # Errors
    /// What reading said.
    pub fn of_reader(input: impl Read) -> io::Result<Self> {
        Hashing::new(input).finish()
    }

    /// Of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a sha256 digest");
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(wrong)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Hashes and counts what is read through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// Reads what is left, then gives the digest of everything.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest(self.hash.finalize().into()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buf)?;
        self.hash.update(&buf[..length]);
        Ok(length)
    }
}

/// Hashes and counts what is written through it.
pub(crate) struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> HashingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }

    /// Digest and length of everything.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest(self.hash.finalize().into()), self.length)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A digest by one of the algorithms that the OCI image specification registers: sha256, or sha512. Content that was pushed under one of
/// them is kept under it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentDigest(String);

/// Digits of a sha512 digest.
const SHA512_DIGITS: usize = 128;

impl ContentDigest {
    /// The digest of `bytes` by the same algorithm.
    #[must_use]
    pub fn same_of(&self, bytes: &[u8]) -> Self {
        // Reading from memory does not fail.
        self.same_of_reader(bytes).unwrap_or_else(|_| Digest::of(bytes).into())
    }

    /// The digest of everything that can be read, by the same algorithm.
    ///
    /// # Errors
    /// What reading said.
    pub fn same_of_reader(&self, mut input: impl Read) -> io::Result<Self> {
        if !self.0.starts_with("sha512:") {
            return Ok(Digest::of_reader(input)?.into());
        }
        let mut hasher = sha2::Sha512::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match input.read(&mut buffer)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        let hex: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self(format!("sha512:{hex}")))
    }

    /// Algorithm and digits.
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or(("", &self.0))
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Digest> for ContentDigest {
    fn from(digest: Digest) -> Self {
        Self(digest.to_string())
    }
}

impl FromStr for ContentDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(hex) = text.strip_prefix("sha512:") else { return Ok(text.parse::<Digest>()?.into()) };
        if hex.len() == SHA512_DIGITS && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("{text:?} is not a sha512 digest"))
    }
}

impl TryFrom<String> for ContentDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ContentDigest> for String {
    fn from(digest: ContentDigest) -> Self {
        digest.0
    }
}

#[cfg(test)]
mod tests {
    use super::{ContentDigest, Digest};

    #[test]
    fn digests_are_written_and_read_strictly() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        let upper = text.to_uppercase();
        for wrong in ["", "sha256:", "sha512:00", &text[..70], upper.as_str(), "sha256:../../etc/passwd"] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
            assert!(wrong.parse::<ContentDigest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn content_is_compared_by_its_own_algorithm() {
        let short: ContentDigest = Digest::of(b"x").into();
        assert_eq!(short.same_of(b"y"), Digest::of(b"y").into());
        let long: ContentDigest = format!("sha512:{}", "0".repeat(128)).parse().expect("a digest");
        // The first digits of the empty message's, FIPS 180-4.
        assert!(long.same_of(b"").to_string().starts_with("sha512:cf83e1357eefb8bd"));
        assert_eq!(long.parts(), ("sha512", &*"0".repeat(128)));
    }
}
