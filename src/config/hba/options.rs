//! What may follow the method of a rule.
//!
//! **Owns:** the options that have an effect, and their rules.
//! **Does not own:** splitting a line into words (`lines`).
//! **Invariant:** an option that keeps somebody away is never passed over in silence.
//!
//! Source: PostgreSQL manual `auth-pg-hba-conf.html`, `auth-cert.html`, `auth-pam.html`,
//! `auth-username-maps.html`.

use super::{HbaKind, HbaMethod};

/// The options of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HbaOptions {
    /// What the client's certificate must show, besides the method.
    pub client_cert: Option<ClientCert>,
    /// The map from names of the system or of certificates to names of users.
    pub map: Option<String>,
    /// The PAM service to ask.
    pub pam_service: Option<String>,
}

/// What a certificate must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// That a known authority has signed it.
    Authority,
    /// That, and the user's name.
    Name,
}

impl HbaOptions {
    /// Reads the words after the method; returns also those without effect.
    pub(super) fn parse<'a>(
        words: &'a [String],
        kind: HbaKind,
        method: &HbaMethod,
    ) -> Result<(Self, Vec<&'a str>), String> {
        let mut options = Self::default();
        let mut unknown = Vec::new();
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                if word.starts_with("clientcert") {
                    return Err(format!("option '{word}' is not of the form name=value"));
                }
                unknown.push(word.as_str());
                continue;
            };
            match name {
                "clientcert" => {
                    let wanted = client_cert(value)?;
                    if wanted.is_some() && kind != HbaKind::HostSsl {
                        return Err("clientcert is only for hostssl connections".to_owned());
                    }
                    options.client_cert = wanted;
                }
                "map" => options.map = Some(value.to_owned()),
                "pamservice" if *method == HbaMethod::Pam => {
                    options.pam_service = Some(value.to_owned());
                }
                "clientname" if value != "CN" => {
                    return Err(format!("clientname={value} is not supported: only CN is"));
                }
                "clientname" => {}
                _ => unknown.push(name),
            }
        }
        Ok((options, unknown))
    }
}

fn client_cert(value: &str) -> Result<Option<ClientCert>, String> {
    match value {
        "0" | "no-verify" => Ok(None),
        "1" | "verify-ca" => Ok(Some(ClientCert::Authority)),
        "verify-full" => Ok(Some(ClientCert::Name)),
        _ => Err(format!(
            "clientcert={value}: expected verify-ca or verify-full"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str], method: &HbaMethod) -> Result<HbaOptions, String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        HbaOptions::parse(&words, HbaKind::HostSsl, method).map(|(options, _)| options)
    }

    #[test]
    fn options_are_read() {
        let options = parse(&["clientcert=verify-full", "map=m"], &HbaMethod::Cert).unwrap();
        assert_eq!(options.client_cert, Some(ClientCert::Name));
        assert_eq!(options.map.as_deref(), Some("m"));
        let options = parse(&["pamservice=login"], &HbaMethod::Pam).unwrap();
        assert_eq!(options.pam_service.as_deref(), Some("login"));
        let options = parse(&["clientcert=no-verify"], &HbaMethod::Md5).unwrap();
        assert_eq!(options, HbaOptions::default());
    }

    #[test]
    fn what_would_let_in_too_many_is_refused() {
        for word in ["clientcert", "clientcert=yes", "clientname=DN"] {
            assert!(parse(&[word], &HbaMethod::Cert).is_err(), "{word}");
        }
        let words = ["clientcert=1".to_owned()];
        assert!(HbaOptions::parse(&words, HbaKind::Host, &HbaMethod::Trust).is_err());
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let words = ["ldapserver=x".to_owned()];
        let (_, unknown) = HbaOptions::parse(&words, HbaKind::Host, &HbaMethod::Md5).unwrap();
        assert_eq!(unknown, ["ldapserver"]);
    }
}
