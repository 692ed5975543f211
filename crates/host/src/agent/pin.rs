//! A pin: the control plane's key named by its fingerprint, for an enrolment without a CA file.
//!
//! The pin is the SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 5280 §4.1.2.7, the pin of
//! RFC 7469 §2.4) in hexadecimal. It may name the server's own key, which is then all that counts
//! (neither name nor dates: whoever holds the key finishes the handshake); or the key of a
//! certificate authority that the server sends along, which must then have signed the server's
//! certificate for its name and this time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hostler_identity::crypto_provider;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, PeerIncompatible};
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The fingerprint of a public key, written `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy)]
pub struct ServerPin([u8; 32]);

/// A text is not a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin is `sha256:` and 64 hexadecimal digits; the control plane prints its own at start")]
pub struct InvalidPin;

/// No certificate of the server has the pinned key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the server's key is {presented}, not the pinned {pinned}")]
pub(crate) struct PinMismatch {
    pinned: ServerPin,
    presented: ServerPin,
}

impl ServerPin {
    /// The pin of the key in this certificate (DER).
    ///
    /// # Errors
    /// When it cannot be read as a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(Sha256::digest(key.as_ref()).into()))
    }

    fn names(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        Ok(Self::of(certificate)?.0.ct_eq(&self.0).into())
    }
}

impl FromStr for ServerPin {
    type Err = InvalidPin;

    fn from_str(text: &str) -> Result<Self, InvalidPin> {
        let digits = text.strip_prefix("sha256:").ok_or(InvalidPin)?;
        let mut pin = [0; 32];
        hex::decode_to_slice(digits, &mut pin).map_err(|_| InvalidPin)?;
        Ok(Self(pin))
    }
}

impl fmt::Display for ServerPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

/// Accepts the server that the pin names.
#[derive(Debug)]
pub(crate) struct PinVerifier(pub(crate) ServerPin);

impl PinVerifier {
    /// Ordinary verification with the pinned authority as the only root.
    fn verify_under(
        authority: &CertificateDer<'_>,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto_provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(leaf, intermediates, name, &[], now)
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.0.names(leaf)? {
            return Ok(ServerCertVerified::assertion());
        }
        for authority in intermediates {
            if self.0.names(authority)? {
                return Self::verify_under(authority, leaf, intermediates, name, now);
            }
        }
        let mismatch = PinMismatch {
            pinned: self.0,
            presented: ServerPin::of(leaf)?,
        };
        Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The configuration does not offer TLS 1.2, so nobody asks.
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_back_as_it_was_written_and_nothing_else_is_one() {
        let text = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(text.parse::<ServerPin>().unwrap().to_string(), text);
        let upper = format!("sha256:{}", "AB".repeat(32));
        assert_eq!(upper.parse::<ServerPin>().unwrap().to_string(), text);
        for bad in [
            "",
            "sha256:",
            "sha256:ab",
            &"ab".repeat(32),
            "sha256:zz",
            "sha1:ab",
        ] {
            assert_eq!(bad.parse::<ServerPin>().unwrap_err(), InvalidPin, "{bad:?}");
        }
    }
}
