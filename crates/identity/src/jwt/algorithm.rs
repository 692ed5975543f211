//! The nine algorithms of JWT-SVID §2.1. Those without a key pair (`none`, HMAC) and those that
//! the standard leaves out (EdDSA) have no value here.

/// A signature algorithm (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// ECDSA.
    Es(Digest),
    /// RSASSA-PKCS1-v1_5.
    Rs(Digest),
    /// RSASSA-PSS.
    Ps(Digest),
}

/// The hash, which for ECDSA fixes the curve too (RFC 7518 §3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digest {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    const ALL: [(&'static str, Self); 9] = [
        ("ES256", Self::Es(Digest::Sha256)),
        ("ES384", Self::Es(Digest::Sha384)),
        ("ES512", Self::Es(Digest::Sha512)),
        ("RS256", Self::Rs(Digest::Sha256)),
        ("RS384", Self::Rs(Digest::Sha384)),
        ("RS512", Self::Rs(Digest::Sha512)),
        ("PS256", Self::Ps(Digest::Sha256)),
        ("PS384", Self::Ps(Digest::Sha384)),
        ("PS512", Self::Ps(Digest::Sha512)),
    ];

    /// By its name, which is case-sensitive (RFC 7515 §4.1.1).
    pub(super) fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, algorithm)| *algorithm)
    }

    pub(super) fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, algorithm)| *algorithm == self);
        found.map_or("unknown", |(name, _)| name)
    }
}
