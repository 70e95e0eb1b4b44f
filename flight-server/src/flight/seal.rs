//! Authenticated encryption of what clients carry for us.
//!
//! A handle is sealed for a purpose and a principal, so it can't be read, altered, put to another use or used by
//! another user. Every server of a lakehouse has the same key, so any of them opens what another sealed. Keys are
//! changed by putting the new one first and leaving the old one behind it for as long as handles live.

use std::fmt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lakehouse::{Context as _, Error, Kind, Result};

/// The first byte of all that is sealed: this layout, `format ‖ key id ‖ nonce ‖ ciphertext and tag`.
const FORMAT: u8 = 1;

/// Bytes of a key: AES-256 (<https://www.rfc-editor.org/rfc/rfc8452>).
const KEY_BYTES: usize = 32;

/// Bytes that tell keys apart: the beginning of a key's SHA-256.
const KEY_ID_BYTES: usize = 4;

const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_LEN;

/// What something sealed is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A planned query.
    Ticket = 1,
    /// A prepared statement.
    Prepared,
    /// Session options.
    Session,
    /// Who a client is.
    Token,
    /// A query in the background.
    Poll,
    /// A part of a kept result.
    Result,
}

/// A secret key. It is never shown.
pub struct Key {
    id: [u8; KEY_ID_BYTES],
    secret: [u8; KEY_BYTES],
}

impl Key {
    /// A key from 64 hexadecimal digits, or from 32 bytes in base64.
    ///
    /// # Errors
    /// `Invalid` if it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let bytes = from_hex(text).or_else(|| STANDARD.decode(text).ok());
        let secret: Option<[u8; KEY_BYTES]> = bytes.and_then(|bytes| bytes.try_into().ok());
        secret.map(Self::new).ok_or_else(|| {
            Error::invalid(
                "the key must be 64 hexadecimal digits or 32 bytes in base64; make one: openssl rand -hex 32",
            )
        })
    }

    /// A key that nobody else has.
    ///
    /// # Errors
    /// `Unavailable` if the system has no random numbers.
    pub fn random() -> Result<Self> {
        let mut secret = [0; KEY_BYTES];
        rand::fill(&mut secret).context(Kind::Unavailable, || "the system gives no random numbers".into())?;
        Ok(Self::new(secret))
    }

    /// The key in the file at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// `Invalid` if the file holds no key, `Unavailable` if it can't be read or made.
    #[cfg(feature = "local")]
    pub fn kept_at(path: &Path) -> Result<Self> {
        use std::io::{ErrorKind, Write as _};
        use std::os::unix::fs::OpenOptionsExt as _;

        let failed = || format!("can't keep the key of tickets at {}", path.display());
        match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let key = Self::random()?;
                let text: String = key.secret.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(file, "{text}").and_then(|()| file.sync_all()).context(Kind::Unavailable, failed)?;
                Ok(key)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::read(path),
            Err(error) => Err(Error::unavailable(failed()).because(error)),
        }
    }

    /// The key in the file at `path`.
    ///
    /// # Errors
    /// `Invalid` if the file holds no key, `Unavailable` if it can't be read.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text =
            std::fs::read_to_string(path).context(Kind::Unavailable, || format!("can't read the key in {shown}"))?;
        Self::parse(&text).map_err(|error| Error::invalid(format!("{shown}: {error}")))
    }

    fn new(secret: [u8; KEY_BYTES]) -> Self {
        let hash = digest(&SHA256, &secret);
        let mut id = [0; KEY_ID_BYTES];
        id.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Self { id, secret }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let is_hex = text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = is_hex.then(|| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()))?;
    pairs.collect()
}

/// Seals with the first of its keys, opens with all of them.
pub struct Sealer {
    keys: Vec<([u8; KEY_ID_BYTES], RandomizedNonceKey)>,
}

impl Sealer {
    /// A sealer with `keys`.
    ///
    /// # Errors
    /// `Invalid` without a key.
    pub fn new(keys: Vec<Key>) -> Result<Self> {
        if keys.is_empty() {
            return Err(Error::invalid("there is no key to seal tickets with; give one: openssl rand -hex 32"));
        }
        let unusable = |_| Error::internal("a key can't be used");
        let keys = keys.into_iter().map(|key| {
            let cipher = RandomizedNonceKey::new(&AES_256_GCM_SIV, &key.secret).map_err(unusable)?;
            Ok((key.id, cipher))
        });
        Ok(Self { keys: keys.collect::<Result<_>>()? })
    }

    pub(super) fn seal(&self, purpose: Purpose, principal: &str, plain: &[u8]) -> Result<Bytes> {
        let failed = || Error::internal("a handle can't be sealed");
        let (id, key) = self.keys.first().ok_or_else(failed)?;
        let mut text = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(aad(purpose, principal), &mut text).map_err(|_| failed())?;
        let mut sealed = Vec::with_capacity(HEADER_BYTES + text.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(id);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut text);
        Ok(sealed.into())
    }

    /// `None` if it was not sealed for this, by one of the keys, or was altered.
    pub(super) fn open(&self, purpose: Purpose, principal: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (header, text) = sealed.split_at_checked(HEADER_BYTES)?;
        let (format, rest) = header.split_first()?;
        let (id, nonce) = rest.split_at_checked(KEY_ID_BYTES)?;
        let (_, key) = self.keys.iter().find(|(known, _)| *format == FORMAT && known == id)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let length = key.open_in_place(nonce, aad(purpose, principal), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer of {} keys", self.keys.len())
    }
}

fn aad(purpose: Purpose, principal: &str) -> Aad<Vec<u8>> {
    let mut bytes = vec![purpose as u8];
    bytes.extend_from_slice(principal.as_bytes());
    Aad::from(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn sealer(keys: &[&str]) -> Sealer {
        Sealer::new(keys.iter().map(|text| Key::parse(text).unwrap()).collect()).unwrap()
    }

    #[test]
    fn another_server_with_the_key_opens_what_one_sealed() {
        let sealed = sealer(&[KEY]).seal(Purpose::Ticket, "ann", b"a plan").unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"a plan"), "it can be read");
        assert_eq!(sealer(&[KEY]).open(Purpose::Ticket, "ann", &sealed).as_deref(), Some(&b"a plan"[..]));
    }

    #[test]
    fn other_keys_purposes_and_principals_are_refused() {
        let sealed = sealer(&[KEY]).seal(Purpose::Ticket, "ann", b"a plan").unwrap();
        let other = "f".repeat(64);
        assert_eq!(sealer(&[&other]).open(Purpose::Ticket, "ann", &sealed), None);
        assert_eq!(sealer(&[KEY]).open(Purpose::Prepared, "ann", &sealed), None);
        assert_eq!(sealer(&[KEY]).open(Purpose::Ticket, "bob", &sealed), None);
    }

    #[test]
    fn a_new_key_leaves_what_the_old_one_sealed_open() {
        let old = sealer(&[KEY]).seal(Purpose::Session, "ann", b"x").unwrap();
        let new = "ab".repeat(32);
        let both = sealer(&[&new, KEY]);
        assert!(both.open(Purpose::Session, "ann", &old).is_some());
        let sealed = both.seal(Purpose::Session, "ann", b"x").unwrap();
        assert!(sealer(&[&new]).open(Purpose::Session, "ann", &sealed).is_some(), "sealed with the first key");
    }

    #[test]
    fn keys_are_hexadecimal_or_base64_and_never_shown() {
        let bytes: Vec<u8> = (0..32).collect();
        assert_eq!(Key::parse(&STANDARD.encode(bytes)).unwrap().secret, Key::parse(KEY).unwrap().secret);
        for text in ["", "secret", &KEY[1..], &format!("{KEY}00")] {
            let error = Key::parse(text).unwrap_err().to_string();
            assert!(error.contains("openssl rand -hex 32"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        assert_eq!(format!("{:?}", Key::parse(KEY).unwrap()), "Key");
    }

    #[cfg(feature = "local")]
    #[test]
    fn a_kept_key_is_made_once_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = Key::kept_at(&path).unwrap();
        assert_eq!(Key::kept_at(&path).unwrap().secret, made.secret);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    proptest! {
        #[test]
        fn no_altered_or_foreign_bytes_are_opened(
            plain in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flip in 1..=255_u8,
            foreign in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let sealer = sealer(&[KEY]);
            let sealed = sealer.seal(Purpose::Ticket, "ann", &plain).unwrap();
            let mut altered = sealed.to_vec();
            let at = at.index(altered.len());
            altered[at] ^= flip;
            prop_assert_eq!(sealer.open(Purpose::Ticket, "ann", &altered), None);
            prop_assert_eq!(sealer.open(Purpose::Ticket, "ann", &sealed[..at]), None);
            prop_assert_eq!(sealer.open(Purpose::Ticket, "ann", &foreign), None);
        }
    }
}
