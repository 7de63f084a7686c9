//! Secrets that must be read again, encrypted by a key that is not in the database (ChaCha20-Poly1305).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use berth_types::{hex, random, unhex};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

use crate::error::Error;

/// Encrypts and decrypts, and makes digests that only this server can make.
pub struct Secrets {
    cipher: LessSafeKey,
    digests: hmac::Key,
}

impl Secrets {
    /// Reads the key, or makes one that only its owner can read.
    ///
    /// # Errors
    /// The file can't be read or written, or is no key.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |e: std::io::Error| Error::Bug(format!("{}: {e}", path.display()));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = hex(&random::<32>());
                let temporary = path.with_extension("tmp");
                let _ = fs::remove_file(&temporary);
                let file = File::options().write(true).create_new(true).mode(0o600).open(&temporary);
                file.and_then(|mut f| f.write_all(key.as_bytes()).and_then(|()| f.sync_all()))
                    .and_then(|()| fs::rename(&temporary, path))
                    .map_err(failed)?;
                key
            }
            Err(error) => return Err(failed(error)),
        };
        let key = unhex(text.trim()).and_then(|bytes| {
            let cipher = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?);
            // A key of its own, made of the other one.
            let made = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), b"digests");
            Some(Self { cipher, digests: hmac::Key::new(hmac::HMAC_SHA256, made.as_ref()) })
        });
        key.ok_or_else(|| Error::Bug(format!("{} does not hold 64 hexadecimal digits", path.display())))
    }

    /// A digest of these parts, 64 hexadecimal digits; without the key nobody can find out what they were.
    pub fn digest(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.digests);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        hex(context.sign().as_ref())
    }

    /// Encrypts `text`; `about` must be the same when it is read again.
    ///
    /// # Errors
    /// [`Error::Bug`]: it can't be encrypted.
    pub fn seal(&self, about: &str, text: &str) -> Result<String, Error> {
        let nonce: [u8; NONCE_LEN] = random();
        let mut bytes = text.as_bytes().to_vec();
        self.cipher
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(about.as_bytes()), &mut bytes)
            .map_err(|_| Error::Bug("a secret could not be encrypted".into()))?;
        Ok(hex(&nonce) + &hex(&bytes))
    }

    /// Decrypts what [`seal`](Self::seal) gave.
    ///
    /// # Errors
    /// [`Error::Bug`]: another key or purpose, or no sealed text.
    pub fn open_sealed(&self, about: &str, sealed: &str) -> Result<String, Error> {
        let wrong = || Error::Bug(format!("the secret of {about} can't be decrypted: was the key file replaced?"));
        let bytes = unhex(sealed).filter(|b| b.len() > NONCE_LEN).ok_or_else(wrong)?;
        let (nonce, rest) = bytes.split_at(NONCE_LEN);
        let mut rest = rest.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let text = self.cipher.open_in_place(nonce, Aad::from(about.as_bytes()), &mut rest).map_err(|_| wrong())?;
        String::from_utf8(text.to_vec()).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::Secrets;

    #[test]
    fn secrets_are_read_again_only_with_the_same_key_and_purpose() {
        let folder = std::env::temp_dir().join(format!("berth-secrets-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let secrets = Secrets::open(&folder.join("key")).expect("open");
        let sealed = secrets.seal("login a", "pässword").expect("seal");
        assert!(!sealed.contains("word"));
        let again = Secrets::open(&folder.join("key")).expect("open again");
        assert_eq!(again.open_sealed("login a", &sealed).ok().as_deref(), Some("pässword"));
        assert!(again.open_sealed("login b", &sealed).is_err());
        assert!(Secrets::open(&folder.join("other")).expect("other").open_sealed("login a", &sealed).is_err());
        assert!(again.open_sealed("login a", "00").is_err() && again.open_sealed("login a", "zz").is_err());
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
