//! Writing PEM (RFC 7468): what other programs read from files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use secrecy::{ExposeSecret, SecretString};

/// Characters in a line of base64 (RFC 7468 §3).
const LINE: usize = 64;

/// These certificates as PEM `CERTIFICATE` blocks, in their order.
///
/// ```
/// # use hostler_identity::certificates_pem;
/// assert_eq!(certificates_pem(&[]), "");
/// ```
#[must_use]
pub fn certificates_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|certificate| block("CERTIFICATE", certificate))
        .collect()
}

pub(crate) fn private_key(key: &PrivatePkcs8KeyDer<'_>) -> SecretString {
    block("PRIVATE KEY", key.secret_pkcs8_der()).into()
}

fn block(label: &str, der: &[u8]) -> String {
    // Wiped when it is dropped, for it may be a key; and room for everything at once, so that no
    // half of one is left behind in a buffer that grew.
    let text = SecretString::from(STANDARD.encode(der));
    let text = text.expose_secret();
    let mut pem = String::with_capacity(text.len() + text.len() / LINE + 2 * label.len() + 40);
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    for start in (0..text.len()).step_by(LINE) {
        pem.push_str(&text[start..text.len().min(start + LINE)]);
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
