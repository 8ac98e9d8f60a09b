//! A private authority and certificates from it, made anew for each test. PEM text in, PEM text out.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};

/// A certificate and its key in PEM form.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// An authority that nobody else knows.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's certificate; `names` are its alternative names.
    pub fn server(&self, common_name: &str, names: &[&str]) -> Pair {
        self.sign(&named(common_name, names))
    }

    pub fn expired(&self, name: &str) -> Pair {
        let mut params = named(name, &[name]);
        params.not_after = date_time_ymd(2001, 1, 1);
        self.sign(&params)
    }

    /// A client's certificate, whose common name is the user.
    pub fn client(&self, user: &str) -> Pair {
        let mut params = named(user, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair { cert: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A certificate that is its own authority, as `openssl req -x509` makes it.
pub fn self_signed(name: &str) -> Pair {
    let mut params = named(name, &[name]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    Pair { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// A certificate of version 1, which rcgen cannot make.
pub fn version_1(name: &str) -> Pair {
    let directory = tempfile::tempdir().unwrap();
    let path = |file: &str| directory.path().join(file).display().to_string();
    let (key, request, cert) = (path("key"), path("request"), path("cert"));
    let subject = format!("/CN={name}");
    openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &request]);
    openssl(&["x509", "-req", "-in", &request, "-signkey", &key, "-days", "9", "-out", &cert]);
    Pair { cert: std::fs::read_to_string(cert).unwrap(), key: std::fs::read_to_string(key).unwrap() }
}

/// The same key under a pass phrase.
pub fn encrypted(key: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key").display().to_string();
    std::fs::write(&path, key).unwrap();
    let output = openssl(&["pkcs8", "-topk8", "-in", &path, "-passout", "pass:x"]);
    String::from_utf8(output).unwrap()
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("openssl").args(arguments).output().expect("these tests need openssl");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(common_name.to_owned()));
    params
}
