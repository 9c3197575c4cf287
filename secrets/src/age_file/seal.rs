//! Encryption and its check, both age's own: a key of the file wrapped for the
//! recipient, a MAC over the header, ChaCha20-Poly1305 over chunks of 64 KiB.
//!
//! # Source
//! <https://c2sp.org/age>

use std::io::{self, BufRead, Read, Write};
use std::iter;

use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};
use zeroize::Zeroizing;

/// The bytes of plaintext in one chunk of an age file.
const CHUNK_BYTES: usize = 64 * 1024;

/// Why an age file did not open.
#[derive(Debug)]
pub(super) enum UnsealError {
    /// Not an age file, or of an age version that we cannot read.
    NotAge,
    /// None of the identities fits.
    WrongIdentity,
    /// It fails its check.
    Damaged,
    /// It could not be read.
    Io(io::Error),
}

/// Encrypts what `write` writes, and then `filler` over and over.
///
/// The encrypting writer keeps plaintext in a buffer of one chunk and does not
/// wipe it: so the last chunk is all filler, which overwrites what was there.
/// It also hides how long the content is to within 64 KiB.
pub(super) fn seal<W: Write>(
    out: W,
    recipient: &dyn Recipient,
    filler: u8,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let encryptor = Encryptor::with_recipients(iter::once(recipient)).map_err(io::Error::other)?;
    let mut counted = Counted { out: encryptor.wrap_output(out)?, bytes: 0 };
    write(&mut counted)?;
    let filler_bytes = 2 * CHUNK_BYTES - counted.bytes % CHUNK_BYTES;
    io::copy(&mut io::repeat(filler).take(filler_bytes as u64), &mut counted)?;
    counted.out.finish()?.flush()
}

/// Decrypts a whole file of about `bytes` bytes, into one buffer.
///
/// Nothing is returned before everything was checked.
pub(super) fn unseal<'a>(
    file: impl BufRead,
    bytes: u64,
    identities: impl Iterator<Item = &'a dyn Identity>,
) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
    let mut plaintext = Decryptor::new_buffered(file)?.decrypt(identities)?;
    // The plaintext is shorter than the file, so the buffer does not grow and
    // leaves no copy behind.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(bytes).unwrap_or(0)));
    plaintext.read_to_end(&mut content).map_err(DecryptError::Io)?;
    Ok(content)
}

impl From<DecryptError> for UnsealError {
    fn from(error: DecryptError) -> Self {
        match error {
            DecryptError::Io(error) => match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Damaged,
                _ => Self::Io(error),
            },
            DecryptError::UnknownFormat => Self::NotAge,
            DecryptError::NoMatchingKeys
            | DecryptError::DecryptionFailed
            | DecryptError::KeyDecryptionFailed => Self::WrongIdentity,
            _ => Self::Damaged,
        }
    }
}

struct Counted<W> {
    out: W,
    bytes: usize,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use age::x25519;

    use super::*;

    const CONTENT: &[u8] = b"{\"secret\":\"sk-fake-canary-0001\"}";

    fn sealed(identity: &x25519::Identity, content: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let write = |out: &mut dyn Write| out.write_all(content);
        seal(&mut file, &identity.to_public(), b' ', write).unwrap();
        file
    }

    fn unsealed(
        identity: &x25519::Identity,
        file: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let identities = iter::once(identity as &dyn Identity);
        unseal(file, file.len() as u64, identities)
    }

    /// Without the filler, so that trying every byte is quick.
    fn short(identity: &x25519::Identity) -> Vec<u8> {
        age::encrypt(&identity.to_public(), CONTENT).unwrap()
    }

    #[test]
    fn content_comes_back_followed_by_at_least_a_chunk_of_filler() {
        let identity = x25519::Identity::generate();
        for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 200_000] {
            let content = vec![b'x'; bytes];
            let back = unsealed(&identity, &sealed(&identity, &content)).unwrap();
            assert_eq!(back[..bytes], content);
            assert!(back[bytes..].iter().all(|byte| *byte == b' '));
            assert_eq!(back.len() % CHUNK_BYTES, 0);
            assert!(back.len() - bytes >= CHUNK_BYTES);
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let identity = x25519::Identity::generate();
        let mut file = short(&identity);
        for place in 0..file.len() {
            for bit in 0..8 {
                file[place] ^= 1 << bit;
                assert!(unsealed(&identity, &file).is_err(), "bit {bit} of byte {place}");
                file[place] ^= 1 << bit;
            }
        }
        assert_eq!(unsealed(&identity, &file).unwrap()[..], *CONTENT);
    }

    #[test]
    fn every_cut_is_an_error() {
        let identity = x25519::Identity::generate();
        let file = short(&identity);
        for bytes in 0..file.len() {
            assert!(unsealed(&identity, &file[..bytes]).is_err(), "cut to {bytes} bytes");
        }
    }

    #[test]
    fn appended_bytes_are_an_error() {
        let identity = x25519::Identity::generate();
        for file in [short(&identity), sealed(&identity, CONTENT)] {
            for tail in [&b"\0"[..], b"\n", &[0; 100], &file] {
                let longer = [&file[..], tail].concat();
                assert!(unsealed(&identity, &longer).is_err());
            }
        }
    }

    #[test]
    fn dropped_swapped_or_doubled_chunks_are_errors() {
        let identity = x25519::Identity::generate();
        let file = sealed(&identity, &vec![b'x'; 2 * CHUNK_BYTES]);
        let encrypted = CHUNK_BYTES + 16;
        let header = file.len() - 4 * encrypted;
        let chunk = |n: usize| &file[header + n * encrypted..header + (n + 1) * encrypted];
        let head = &file[..header];
        assert!(
            unsealed(&identity, &[head, chunk(0), chunk(1), chunk(2), chunk(3)].concat()).is_ok()
        );
        for changed in [
            [head, chunk(0), chunk(1), chunk(2)].concat(),
            [head, chunk(1), chunk(2), chunk(3)].concat(),
            [head, chunk(1), chunk(0), chunk(2), chunk(3)].concat(),
            [head, chunk(0), chunk(0), chunk(1), chunk(2), chunk(3)].concat(),
        ] {
            assert!(unsealed(&identity, &changed).is_err());
        }
    }

    #[test]
    fn another_identity_opens_nothing() {
        let file = short(&x25519::Identity::generate());
        let refused = unsealed(&x25519::Identity::generate(), &file);
        assert!(matches!(refused, Err(UnsealError::WrongIdentity)));
    }
}
