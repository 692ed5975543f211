//! Takes the credential out of what an API says. It is found as it was sent, and with any of its
//! characters percent-encoded or escaped as JSON and HTML have it. That is a net and no proof: an
//! API that wants to tell it can write it backwards.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

/// What stands in its place.
const GONE: &str = "[credential]";

/// Shorter forms, in bytes, are not looked for: they are in many texts by chance, and a caller who
/// can make the API repeat something would learn by trial what they are.
const SHORTEST: usize = 8;

/// Characters by their names in HTML.
const NAMED: [(&str, char); 8] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("plus", '+'),
    ("sol", '/'),
    ("equals", '='),
];

/// As which a credential may come back.
#[derive(Default)]
pub(super) struct Redaction(Vec<SecretString>);

impl Redaction {
    pub(super) fn new(forms: impl IntoIterator<Item = String>) -> Self {
        let forms = forms.into_iter().filter(|form| form.len() >= SHORTEST);
        Self(forms.map(SecretString::from).collect())
    }

    /// The same without the credential in its texts.
    pub(super) fn clean(&self, mut value: Value) -> Value {
        match &mut value {
            Value::String(text) => self.clean_text(text),
            Value::Array(items) => {
                for item in items {
                    *item = self.clean(std::mem::take(item));
                }
            }
            Value::Object(fields) => {
                for (mut name, field) in std::mem::take(fields) {
                    self.clean_text(&mut name);
                    fields.insert(name, self.clean(field));
                }
            }
            Value::Number(number) => {
                let mut text = number.to_string();
                self.clean_text(&mut text);
                if text.contains(GONE) {
                    value = Value::String(text);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        value
    }

    fn clean_text(&self, text: &mut String) {
        for form in self.0.iter().map(SecretString::expose_secret) {
            if text.contains(form) {
                *text = text.replace(form, GONE);
            }
            if text.contains(['%', '\\', '&', '+']) {
                *text = without_escaped(text, form);
            }
        }
    }
}

/// A text without a form of which characters are escaped.
fn without_escaped(text: &str, form: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = after(rest, form) {
            cleaned.push_str(GONE);
            rest = after;
        } else {
            cleaned.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    cleaned
}

/// What comes after the form, if a text begins with it.
fn after<'t>(text: &'t str, form: &str) -> Option<&'t str> {
    form.chars().try_fold(text, |rest, c| {
        after_escaped(rest, c).or_else(|| rest.strip_prefix(c))
    })
}

fn after_escaped(text: &str, c: char) -> Option<&str> {
    match text.as_bytes().first()? {
        b'%' => after_percent(text, c),
        b'\\' => after_backslash(text, c),
        b'&' => after_entity(text, c),
        b'+' if c == ' ' => Some(&text[1..]),
        _ => None,
    }
}

/// `%2B` (RFC 3986, section 2.1).
fn after_percent(text: &str, c: char) -> Option<&str> {
    let mut bytes = [0; 4];
    c.encode_utf8(&mut bytes).bytes().try_fold(text, |rest, b| {
        let digits = rest.strip_prefix('%')?.get(..2)?;
        (number(digits, 16)? == u32::from(b)).then(|| &rest[3..])
    })
}

/// `\/`, `\u002b` (RFC 8259, section 7).
fn after_backslash(text: &str, c: char) -> Option<&str> {
    let escaped = text.strip_prefix('\\')?;
    let digits = escaped.strip_prefix('u').and_then(|rest| rest.get(..4));
    match digits.and_then(|digits| number(digits, 16)) == Some(u32::from(c)) {
        true => Some(&escaped[5..]),
        false => escaped.strip_prefix(c),
    }
}

/// `&#43;`, `&#x2B;`, `&plus;` (WHATWG HTML, section 13.1.4).
fn after_entity(text: &str, c: char) -> Option<&str> {
    let end = text.bytes().take(12).position(|b| b == b';')?;
    let name = &text[1..end];
    let is_this = match name.strip_prefix('#') {
        Some(digits) => {
            let number = match digits.strip_prefix(['x', 'X']) {
                Some(digits) => number(digits, 16),
                None => number(digits, 10),
            };
            number == Some(u32::from(c))
        }
        None => NAMED.contains(&(name, c)),
    };
    is_this.then(|| &text[end + 1..])
}

/// Digits and no sign.
fn number(digits: &str, radix: u32) -> Option<u32> {
    let are_digits = digits.chars().all(|c| c.is_digit(radix));
    are_digits.then(|| u32::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = r#"a+b/c=d&"e'<f> \g%é"#;

    fn cleaned(text: &str) -> Value {
        Redaction::new([KEY.to_owned()]).clean(json!(text))
    }

    #[test]
    fn a_credential_is_found_however_it_is_escaped() {
        for form in [
            KEY,
            "a%2Bb%2Fc%3Dd%26%22e%27%3Cf%3E%20%5Cg%25%C3%A9",
            "a%2bb/c%3dd%26%22e'%3cf%3e+%5cg%25%c3%a9",
            r#"a+b\/c=d&\"e'<f> \\g%é"#,
            r"a\u002Bb/c=d\u0026\u0022e\u0027\u003Cf\u003E \\g%\u00e9",
            r"a+b/c=d&amp;&quot;e&#39;&lt;f&gt; \g%é",
            r"a&#43;b&#x2F;c&equals;d&amp;&#34;e&#039;&lt;f&gt;&#x20;\g%&#xe9;",
        ] {
            let told = format!("é&%2{form}&;é");
            assert_eq!(cleaned(&told), json!("é&%2[credential]&;é"), "{form}");
            let nested = json!({ form: [form, 1, null] });
            let redaction = Redaction::new([KEY.to_owned()]);
            assert_eq!(
                redaction.clean(nested),
                json!({ "[credential]": ["[credential]", 1, null] })
            );
        }
    }

    #[test]
    fn what_is_no_credential_stays_as_it_is() {
        for text in [
            "", "a+b/c", "%", "%2", "%+a", "\\", "\\u00", "&", "&#;", "&#x;", "&#é;", "&amp",
        ] {
            assert_eq!(cleaned(text), json!(text));
            let longer = format!("{text}a+b/c=d&{text}");
            assert_eq!(cleaned(&longer), json!(longer));
        }
    }

    #[test]
    fn a_short_credential_cannot_be_found_out_by_trial() {
        let short = Redaction::new(["hunter2".to_owned()]);
        assert_eq!(short.clean(json!("is it hunter2?")), "is it hunter2?");
    }
}
