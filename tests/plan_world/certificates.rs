//! Certificates, and who speaks plain text or TLS.

use valkey_cluster_operator::model::{
    Certificates, ClientAuth, Fingerprint, Given, Mode, NodeReport, PodUid, Seen, Snapshot, Tls, Trust,
};

use super::apply::{node, pair};

type Done = Result<(), String>;

pub(super) fn trust(text: &str) -> Result<Trust, String> {
    let (authorities, leaf) = text.split_once('/').ok_or("<ca>+<ca>/<certificate>")?;
    Ok(Trust { authorities: authorities.split('+').map(Fingerprint::from).collect(), leaf: leaf.into() })
}

/// Every node runs with what is given, unless its line says otherwise.
pub(super) fn tls(s: &mut Snapshot, word: &str) -> Done {
    s.desired
        .template
        .tls
        .get_or_insert(Tls { secret: Some("certs".into()), client_auth: ClientAuth::Optional });
    if s.certificates.is_none() {
        s.pods.values_mut().for_each(|p| p.encrypted = true);
        for node in s.nodes.values_mut() {
            if let Seen::Now(node) = node {
                speaks(node, "tls")?;
            }
        }
    }
    let refused = || Err("the Secret certs cannot be used".to_owned());
    let all = s.certificates.get_or_insert_with(|| Certificates {
        wanted: refused(),
        given: None,
        missing: false,
        expires: None,
    });
    match pair(word) {
        ("refused", "") => all.wanted = refused(),
        ("wanted", value) => all.wanted = Ok(trust(value)?),
        ("given", value) => {
            all.given = Some(Given { now: trust(value)?, before: None });
            let uids: Vec<PodUid> = s.nodes.keys().cloned().collect();
            uids.iter().try_for_each(|uid| node(s, uid, &format!("tls={value}")))?;
        }
        ("before", value) => {
            all.given.as_mut().ok_or("given comes first")?.before = Some(trust(value)?);
        }
        ("missing", "") => all.missing = true,
        // What is planned for while the certificate of a cluster in plain text cannot be used.
        ("asis", "") => s.desired.template.tls = None,
        ("off", "") => {
            s.desired.template.tls = None;
            all.wanted = Ok(all.given.as_ref().ok_or("given comes first")?.now.clone());
        }
        ("auth", "required") => {
            if let Some(tls) = &mut s.desired.template.tls {
                tls.client_auth = ClientAuth::Required;
            }
        }
        _ => return Err(format!("unknown word {word:?}")),
    }
    Ok(())
}

/// What clients, replication and bus speak; half: some of it.
pub(super) fn speaks(n: &mut NodeReport, what: &str) -> Done {
    let mode = match what {
        "plain" => Mode::Plain,
        "tls" | "half" => Mode::Tls,
        _ => return Err("plain, tls or half".to_owned()),
    };
    n.config.extend(mode.settings().map(|(key, value)| (key.to_owned(), value)));
    if what == "half" {
        n.config.insert("tls-cluster".into(), "no".into());
    }
    Ok(())
}
