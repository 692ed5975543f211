//! The public half of a key that signs JWT-SVIDs, and its form as a JWK (RFC 7517, RFC 7518 §6).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::JwtSvidRule;
use super::algorithm::{Algorithm, Digest};

/// RSA keys of a JWT bundle; RFC 7518 §3.3 sets the lower end, patience the upper.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A public key by which JWT-SVIDs are recognised: ECDSA on P-256, P-384 or P-521, or RSA of 2048
/// to 8192 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKey(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// An uncompressed point (SEC 1 §2.3.3): the tag 4, x, y.
    Ec { curve: Curve, point: Vec<u8> },
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

/// Why a public key cannot check JWT-SVIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtKeyError {
    /// The encoding is broken, a member is missing, or the point is not on its curve.
    #[error("it is malformed")]
    Malformed,
    /// A kind of key that no algorithm of JWT-SVID uses.
    #[error("its kind is not for JWT-SVIDs; use ECDSA on P-256, P-384 or P-521, or RSA")]
    Kind,
    /// An RSA key that is too short to be safe or too long to be checked.
    #[error("it is RSA of {0} bits; use 2048 to 8192")]
    RsaSize(usize),
}

/// A key as a JSON object, as far as bundles use it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Jwk {
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kty: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) x5c: Option<Vec<String>>,
}

impl JwtKey {
    /// From a DER `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    pub fn from_spki_der(der: &[u8]) -> Result<Self, JwtKeyError> {
        let Ok(([], spki)) = SubjectPublicKeyInfo::from_der(der) else {
            return Err(JwtKeyError::Malformed);
        };
        match spki.parsed().map_err(|_| JwtKeyError::Malformed)? {
            PublicKey::RSA(rsa) => Self::rsa(rsa.modulus, rsa.exponent),
            PublicKey::EC(point) => {
                let parameters = spki.algorithm.parameters.as_ref();
                let curve = parameters.and_then(|parameters| parameters.as_oid().ok());
                let curve = match curve {
                    Some(oid) if oid == OID_EC_P256 => Curve::P256,
                    Some(oid) if oid == OID_NIST_EC_P384 => Curve::P384,
                    Some(oid) if oid == OID_NIST_EC_P521 => Curve::P521,
                    _ => return Err(JwtKeyError::Kind),
                };
                Self::ec(curve, point.data().to_vec())
            }
            _ => Err(JwtKeyError::Kind),
        }
    }

    pub(crate) fn from_jwk(jwk: &Jwk) -> Result<Self, JwtKeyError> {
        let member = |member: &Option<String>| {
            let text = member.as_deref().ok_or(JwtKeyError::Malformed)?;
            URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| JwtKeyError::Malformed)
        };
        match jwk.kty.as_deref() {
            Some("RSA") => Self::rsa(&member(&jwk.n)?, &member(&jwk.e)?),
            Some("EC") => {
                let curve = jwk.crv.as_deref().ok_or(JwtKeyError::Malformed)?;
                let curve = Curve::named(curve).ok_or(JwtKeyError::Kind)?;
                let (x, y) = (member(&jwk.x)?, member(&jwk.y)?);
                // Each has the full width of its curve (RFC 7518 §6.2.1.2).
                if x.len() != curve.width() || y.len() != curve.width() {
                    return Err(JwtKeyError::Malformed);
                }
                Self::ec(curve, [&[4], &x[..], &y].concat())
            }
            _ => Err(JwtKeyError::Kind),
        }
    }

    /// The key as a JWK for this `use`.
    pub(crate) fn to_jwk(&self, purpose: &str) -> Jwk {
        let purpose = Some(purpose.to_owned());
        let member = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
        match &self.0 {
            Kind::Ec { curve, point } => {
                let (x, y) = point[1..].split_at(curve.width());
                Jwk {
                    purpose,
                    kty: Some("EC".to_owned()),
                    crv: Some(curve.name().to_owned()),
                    x: member(x),
                    y: member(y),
                    ..Jwk::default()
                }
            }
            Kind::Rsa { n, e } => Jwk {
                purpose,
                kty: Some("RSA".to_owned()),
                n: member(n),
                e: member(e),
                ..Jwk::default()
            },
        }
    }

    fn ec(curve: Curve, point: Vec<u8>) -> Result<Self, JwtKeyError> {
        if point.len() != 1 + 2 * curve.width() || point[0] != 4 {
            return Err(JwtKeyError::Malformed);
        }
        ParsedPublicKey::new(curve.verification(), &point).map_err(|_| JwtKeyError::Malformed)?;
        Ok(Self(Kind::Ec { curve, point }))
    }

    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, JwtKeyError> {
        let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
        let bits = n
            .first()
            .map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(JwtKeyError::RsaSize(bits));
        }
        // Even exponents and 1 are no RSA; more than four bytes are an attack on our time.
        if e.len() > 4 || e == [1] || e.last().is_none_or(|last| last % 2 == 0) {
            return Err(JwtKeyError::Malformed);
        }
        Ok(Self(Kind::Rsa {
            n: n.to_vec(),
            e: e.to_vec(),
        }))
    }

    /// Whether this key has signed `message` with `algorithm`.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), JwtSvidRule> {
        let verified = match (&self.0, algorithm) {
            (Kind::Ec { curve, point }, Algorithm::Es(digest)) if curve.digest() == digest => {
                UnparsedPublicKey::new(curve.verification(), point).verify(message, signature)
            }
            (Kind::Rsa { n, e }, Algorithm::Rs(digest)) => {
                let parameters = match digest {
                    Digest::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                    Digest::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                    Digest::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Kind::Rsa { n, e }, Algorithm::Ps(digest)) => {
                let parameters = match digest {
                    Digest::Sha256 => &RSA_PSS_2048_8192_SHA256,
                    Digest::Sha384 => &RSA_PSS_2048_8192_SHA384,
                    Digest::Sha512 => &RSA_PSS_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            _ => return Err(JwtSvidRule::AlgorithmOfAnotherKey(algorithm.name())),
        };
        verified.map_err(|_| JwtSvidRule::Signature)
    }
}

impl Curve {
    fn named(name: &str) -> Option<Self> {
        let all = [Self::P256, Self::P384, Self::P521];
        all.into_iter().find(|curve| curve.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a coordinate.
    fn width(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn digest(self) -> Digest {
        match self {
            Self::P256 => Digest::Sha256,
            Self::P384 => Digest::Sha384,
            Self::P521 => Digest::Sha512,
        }
    }

    /// With signatures of fixed length, as JWS has them (RFC 7518 §3.4).
    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
