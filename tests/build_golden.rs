//! The built objects, as files that a reviewer can read. `UPDATE=1 cargo test --test build_golden` writes them anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use k8s_openapi::{
    api::core::v1::{Container, LocalObjectReference, PodSecurityContext, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::Serialize;
use serde_json::Value;
use valkey_cluster_operator::{
    build::{self, Credentials, PodPlan, install, labels},
    model::{
        ClientAuth, ClusterKey, Demands, Desired, Exporter, Metadata, Scheduling, Shard, Spread, SpreadMode,
        Template, Tls,
    },
};

fn golden(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{file} is out of date; look at the change, then run `UPDATE=1 cargo test --test build_golden`\n{text}"
    );
}

fn yaml(object: &impl Serialize) -> String {
    serde_saphyr::to_string(&serde_json::to_value(object).unwrap()).unwrap()
}

fn minimal() -> Desired {
    Desired {
        key: ClusterKey { namespace: "ns".into(), name: "c".into(), uid: "uid-1".into() },
        generation: 1,
        shards: 3,
        replicas: 1,
        max_disrupted_shards: 1,
        budget: true,
        template: Template {
            image: "docker.io/valkey/valkey:9.1.2".into(),
            termination_grace_period_seconds: 30,
            ..Template::default()
        },
        config: BTreeMap::new(),
        purge: false,
        users: BTreeMap::new(),
        rotation: None,
        allowed_clients: Vec::new(),
        paused: false,
        deleting: false,
    }
}

fn amounts(list: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    list.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect()
}

fn full() -> Desired {
    let mut desired = minimal();
    desired.template = Template {
        image:
            "registry.example/valkey@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
                .into(),
        image_pull_secrets: vec![LocalObjectReference { name: "pull".into() }],
        resources: ResourceRequirements {
            limits: Some(amounts(&[("memory", "1Gi")])),
            requests: Some(amounts(&[("cpu", "250m"), ("memory", "1Gi")])),
            claims: None,
        },
        pod_security_context: PodSecurityContext { run_as_user: Some(1001), ..PodSecurityContext::default() },
        termination_grace_period_seconds: 120,
        restarted_at: None,
        ..Template::default()
    };
    desired.config = [
        ("cluster-node-timeout", "5000"),
        ("databases", "1"),
        ("io-threads", "2"),
        ("maxmemory", "500mb"),
        ("maxmemory-policy", "allkeys-lru"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    desired
}

fn encrypted() -> Desired {
    let mut desired = minimal();
    desired.template.tls = Some(Tls { secret: Some("certs".into()), client_auth: ClientAuth::Required });
    desired
}

fn plan() -> PodPlan {
    PodPlan {
        name: labels::pod_name("c", Shard(2), 1),
        shard: Shard(2),
        index: 1,
        worker: Some("node-3".into()),
        worker_hostname: Some("worker-3".into()),
        demands: Demands::default(),
        not_on_hostnames: Vec::new(),
        failures: 0,
    }
}

fn credentials() -> Credentials {
    Credentials::new("operator0operator0operator0", "replication0replication0", "exporter0exporter0")
}

#[test]
fn service() {
    golden("tests/golden/service.yaml", &yaml(&build::service(&minimal())));
}

/// A number that follows the members that serve, of Pods by their cluster's UID; a Pod that is not ready is no obstacle.
#[test]
fn disruption_budget() {
    golden("tests/golden/disruption-budget.yaml", &yaml(&build::budget(&minimal(), 6)));
}

#[test]
fn config_map() {
    golden("tests/golden/config-map-minimal.yaml", &yaml(&build::config_map(&minimal())));
    golden("tests/golden/config-map-full.yaml", &yaml(&build::config_map(&full())));
    golden("tests/golden/config-map-tls.yaml", &yaml(&build::config_map(&encrypted())));
}

#[test]
fn secret() {
    let secret = build::secret(&minimal(), &credentials());
    let mut text = yaml(&secret.metadata);
    for (key, value) in secret.data.as_ref().unwrap() {
        writeln!(text, "--- {key}\n{}", String::from_utf8(value.0.clone()).unwrap()).unwrap();
    }
    golden("tests/golden/secret.txt", &text);
    assert!(secret.metadata.owner_references.is_none(), "it outlives the cluster object");
    assert_eq!(Credentials::from_secret(&secret).unwrap(), credentials());
}

#[test]
fn a_damaged_secret_gets_a_sentence() {
    let mut secret = build::secret(&minimal(), &credentials());
    let data = secret.data.as_mut().unwrap();
    data.get_mut("_operator").unwrap().0 = b"two\nlines".to_vec();
    let altered = Credentials::from_secret(&secret).unwrap();
    assert_eq!(altered.operator, credentials().operator, "the former entry is a copy");
    assert!(altered.lacks.contains("_operator"), "a new one is to be made");
    secret.data.as_mut().unwrap().remove("_operator.previous");
    let missing = Credentials::from_secret(&secret).unwrap_err();
    assert!(missing.contains("internal-c-system-passwords has no password _operator"), "{missing}");
    assert_eq!(format!("{:?}", credentials()), "Credentials(hidden)");
}

#[test]
fn pod() {
    let minimal = minimal();
    golden(
        "tests/golden/pod-minimal.yaml",
        &yaml(&build::pod(&minimal, &build::revision(&minimal), &plan())),
    );
    let full = full();
    let anywhere = PodPlan { worker: None, worker_hostname: None, failures: 3, ..plan() };
    golden("tests/golden/pod-full.yaml", &yaml(&build::pod(&full, &build::revision(&full), &anywhere)));
    let tls = encrypted();
    golden("tests/golden/pod-tls.yaml", &yaml(&build::pod(&tls, &build::revision(&tls), &plan())));
}

/// A change of this file means that an upgrade of the operator makes every running pod outdated.
#[test]
fn revisions_are_pinned() {
    let mut text =
        String::from("# The revision of some specs. A change here replaces every pod of every user.\n");
    let mut line =
        |name: &str, desired: &Desired| writeln!(text, "{name:30} {}", build::revision(desired)).unwrap();
    line("minimal", &minimal());
    line("full", &full());
    let mut at_start = minimal();
    at_start.config.insert("io-threads".into(), "4".into());
    line("minimal, io-threads 4", &at_start);
    line("minimal, tls", &encrypted());
    golden("tests/golden/revisions.txt", &text);
}

/// A name and what it does to a spec.
type Change = (&'static str, &'static dyn Fn(&mut Desired));

#[test]
fn the_revision_changes_with_what_a_pod_cannot_change_and_with_nothing_else() {
    let base = build::revision(&full());
    let with = |change: &dyn Fn(&mut Desired)| {
        let mut desired = full();
        change(&mut desired);
        build::revision(&desired)
    };
    let fixed: &[Change] = &[
        ("image", &|d| d.template.image = "other".into()),
        ("pull secrets", &|d| d.template.image_pull_secrets.clear()),
        ("limits", &|d| d.template.resources.limits = Some(amounts(&[("memory", "2Gi")]))),
        ("requests", &|d| d.template.resources.requests = None),
        ("security", &|d| d.template.pod_security_context.fs_group = Some(1)),
        ("grace", &|d| d.template.termination_grace_period_seconds = 31),
        ("tls", &|d| d.template.tls = encrypted().template.tls),
        ("exporter", &|d| d.template.exporter = Some(Exporter::default())),
        ("containers", &|d| {
            d.template.containers = vec![Container { name: "server".into(), ..Container::default() }];
        }),
        ("a setting read at start", &|d| drop(d.config.insert("databases".into(), "2".into()))),
    ];
    for (name, change) in fixed {
        assert_ne!(with(*change), base, "{name}");
    }
    let free: &[Change] = &[
        ("shards", &|d| d.shards = 9),
        ("replicas", &|d| d.replicas = 0),
        ("paused", &|d| d.paused = true),
        ("labels", &|d| drop(d.template.metadata.labels.insert("team".into(), "a".into()))),
        ("labels of the service", &|d| drop(d.template.service.labels.insert("team".into(), "a".into()))),
        ("spread", &|d| d.template.scheduling.node.shard = SpreadMode::Required),
        ("pinned zones", &|d| d.template.scheduling.pinned = vec!["a".into()]),
        ("generation", &|d| d.generation = 99),
        ("a live setting", &|d| drop(d.config.insert("maxmemory".into(), "1gb".into()))),
        ("node timeout", &|d| drop(d.config.remove("cluster-node-timeout"))),
        ("another spelling", &|d| d.template.resources.limits = Some(amounts(&[("memory", "1024Mi")]))),
        ("another name", &|d| d.key.name = "other".into()),
    ];
    for (name, change) in free {
        assert_eq!(with(*change), base, "{name}");
    }
}

#[test]
fn certificates_and_what_is_asked_of_clients_change_live() {
    let (base, mut other) = (encrypted(), encrypted());
    other.template.tls = Some(Tls { secret: None, client_auth: ClientAuth::Disabled });
    assert_eq!(build::revision(&base), build::revision(&other));
    // Nor does the hook that a Pod ends with depend on them.
    let hook = |d: &Desired| {
        let pod = build::pod(d, &build::revision(d), &plan());
        pod.spec.unwrap().containers[0].lifecycle.clone()
    };
    assert_eq!(hook(&base), hook(&minimal()));
}

#[test]
fn every_object_carries_the_recommended_labels() {
    let d = full();
    let own = [
        serde_json::to_value(build::service(&d)).unwrap(),
        serde_json::to_value(build::config_map(&d)).unwrap(),
        serde_json::to_value(build::secret(&d, &credentials())).unwrap(),
        serde_json::to_value(build::pod(&d, &build::revision(&d), &plan())).unwrap(),
    ];
    for object in own.iter().chain(&install::install(&[]).unwrap()) {
        let labels = &object["metadata"]["labels"];
        for key in ["name", "instance", "version", "component", "part-of", "managed-by"] {
            let value = labels[format!("app.kubernetes.io/{key}")].as_str().unwrap_or_default();
            assert!(
                is_label_value(value),
                "{} {}: {key}={value:?}",
                object["kind"],
                object["metadata"]["name"]
            );
        }
    }
    for object in &own {
        assert_eq!(object["metadata"]["labels"][labels::CLUSTER_UID], "uid-1");
        assert_eq!(object["metadata"]["labels"][labels::MANAGED_BY], labels::OPERATOR);
    }
}

fn is_label_value(value: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    (1..=63).contains(&value.len())
        && ends(value.chars().next())
        && ends(value.chars().last())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[test]
fn what_a_server_reads_holds_no_password_in_clear_but_its_own() {
    let secret = build::secret(&minimal(), &credentials());
    let pod = build::pod(&minimal(), &build::revision(&minimal()), &plan());
    let volumes = pod.spec.unwrap().volumes.unwrap();
    let items = volumes[1].secret.clone().unwrap().items.unwrap();
    for item in items {
        let text = String::from_utf8(secret.data.as_ref().unwrap()[&item.key].0.clone()).unwrap();
        assert!(!text.contains(&credentials().operator), "{} reaches the pod", item.key);
    }
}

#[test]
fn an_object_read_back_has_not_drifted() {
    let wanted = build::service(&minimal());
    let mut live = serde_json::to_value(&wanted).unwrap();
    live["metadata"]["resourceVersion"] = Value::from("7");
    live["spec"]["sessionAffinity"] = Value::from("None");
    live["metadata"]["labels"]["other"] = Value::from("x");
    let wanted = serde_json::to_value(wanted).unwrap();
    assert!(!build::drifted(&wanted, &live));
    live["spec"]["selector"][labels::CLUSTER_UID] = Value::from("another");
    assert!(build::drifted(&wanted, &live));
}

#[test]
fn the_installation_is_current() {
    golden(
        "manifests/install.yaml",
        &serde_saphyr::to_string_multiple(&install::install(&[]).unwrap()).unwrap(),
    );
}

#[test]
fn the_operator_has_no_right_that_is_not_listed() {
    for object in install::install(&[]).unwrap() {
        let text = object["rules"].to_string();
        assert!(!text.contains('*'), "{} has a wildcard", object["metadata"]["name"]);
    }
}

#[test]
fn kustomize_replaces_the_image_by_its_name() {
    let kustomization = include_str!("../manifests/kustomization.yaml");
    let (name, tag) = install::IMAGE.rsplit_once(':').unwrap();
    assert!(kustomization.contains(&format!("name: {name}\n")), "{name}");
    assert!(kustomization.contains(&format!("newTag: {tag}\n")), "{tag}");
}

#[test]
fn what_the_spec_asks_of_the_scheduler_is_handed_on_beside_our_own_wishes() {
    let mut desired = minimal();
    let before = build::revision(&desired);
    desired.template.scheduling = Scheduling {
        node_selector: [("pool".to_owned(), "cache".to_owned())].into(),
        tolerations: serde_json::from_value(
            serde_json::json!([{ "key": "dedicated", "operator": "Exists" }]),
        )
        .unwrap(),
        affinity: serde_json::from_value(serde_json::json!({ "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 1, "podAffinityTerm": {
                "topologyKey": "rack", "labelSelector": {} } }] } }))
        .unwrap(),
        priority_class_name: Some("important".into()),
        ..Scheduling::default()
    };
    assert_ne!(build::revision(&desired), before, "new demands need new pods");
    let plan = PodPlan {
        name: "valkey-c-0-0".into(),
        shard: Shard(0),
        index: 0,
        worker_hostname: Some("w1".into()),
        ..plan()
    };
    let spec = build::pod(&desired, &build::revision(&desired), &plan).spec.unwrap();
    assert_eq!(spec.node_selector.unwrap()["pool"], "cache");
    assert_eq!(spec.tolerations.unwrap().len(), 1);
    assert_eq!(spec.priority_class_name.as_deref(), Some("important"));
    let affinity = spec.affinity.unwrap();
    let apart = affinity.pod_anti_affinity.unwrap().preferred_during_scheduling_ignored_during_execution;
    assert_eq!(apart.unwrap().len(), 3, "that of the spec and ours, over workers and zones");
    let chosen = affinity.node_affinity.unwrap().preferred_during_scheduling_ignored_during_execution;
    assert_eq!(chosen.unwrap().len(), 1);
}

#[test]
fn what_must_be_apart_is_the_schedulers_own_term() {
    let mut desired = minimal();
    let before = build::revision(&desired);
    let required = SpreadMode::Required;
    desired.template.scheduling.node = Spread { shard: required, pods: required, ..Spread::default() };
    desired.template.scheduling.zone = Spread { shard: required, ..Spread::default() };
    desired.template.scheduling.affinity = serde_json::from_value(serde_json::json!({ "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": "pool", "operator": "Exists" }] },
            { "matchExpressions": [{ "key": "old", "operator": "Exists" }] }] } } }))
    .unwrap();
    let affinity = desired.template.scheduling.affinity.take();
    assert_eq!(build::revision(&desired), before, "a mode is changed live");
    desired.template.scheduling.affinity = affinity;
    let beside = PodPlan {
        demands: Demands { uncounted: true, not_in: ["b".into()].into(), ..Demands::default() },
        not_on_hostnames: vec!["worker-1".into()],
        ..plan()
    };
    let of = |plan: &PodPlan| build::pod(&desired, &build::revision(&desired), plan);
    golden("tests/golden/pod-apart.yaml", &yaml(&of(&beside).spec.unwrap().affinity));
    golden("tests/golden/pod-spread.yaml", &yaml(&of(&beside).spec.unwrap().topology_spread_constraints));
    let counted = |plan: &PodPlan| of(plan).metadata.labels.unwrap().contains_key(labels::APART);
    assert!(
        counted(&plan()) && !counted(&beside),
        "beside a member that leaves it is born without the label"
    );
}

#[test]
fn a_pinned_pod_and_one_that_is_moved() {
    let desired = minimal();
    let of = |demands: Demands| {
        let spec =
            build::pod(&desired, &build::revision(&desired), &PodPlan { demands, ..plan() }).spec.unwrap();
        (spec.node_selector, spec.affinity.unwrap().node_affinity.unwrap())
    };
    let (selector, _) = of(Demands { zone: Some("b".into()), ..Demands::default() });
    assert_eq!(selector.unwrap()["topology.kubernetes.io/zone"], "b");
    let (_, nodes) = of(Demands { only: true, ..Demands::default() });
    assert!(nodes.preferred_during_scheduling_ignored_during_execution.is_none());
    let terms = nodes.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
    assert_eq!(terms[0].match_expressions.as_ref().unwrap()[0].values, Some(vec!["worker-3".to_owned()]));
}

#[test]
fn what_comes_beside_the_server_and_what_is_changed_of_it() {
    let mut desired = minimal();
    desired.template.exporter = Some(Exporter {
        image: "docker.io/oliver006/redis_exporter:v1.80.0".into(),
        args: vec!["--is-cluster".into()],
        ..Exporter::default()
    });
    desired.template.containers = serde_json::from_value(serde_json::json!([
        { "name": "proxy", "image": "proxy:1", "args": ["--port", "8080"] },
        { "name": "server", "env": [{ "name": "TZ", "value": "UTC" }], "imagePullPolicy": "Always",
          "securityContext": { "runAsUser": 1001 } },
        { "name": "metrics-exporter", "env": [{ "name": "REDIS_EXPORTER_LOG_FORMAT", "value": "json" }] }
    ]))
    .unwrap();
    let metadata =
        |key: &str| Metadata { labels: [(key.to_owned(), "a".to_owned())].into(), ..Metadata::default() };
    desired.template.metadata = metadata("team");
    desired.template.service = metadata("shown");
    let pod = build::pod(&desired, &build::revision(&desired), &plan());
    let spec = pod.spec.clone().unwrap();
    golden("tests/golden/pod-sidecars.yaml", &yaml(&spec.init_containers));
    let (server, bare) = (&spec.containers[0], build::pod(&minimal(), &build::revision(&minimal()), &plan()));
    let bare = &bare.spec.unwrap().containers[0];
    assert_eq!(server.env.as_ref().unwrap().len(), bare.env.as_ref().unwrap().len() + 1);
    assert_eq!(server.image_pull_policy.as_deref(), Some("Always"));
    let security = server.security_context.as_ref().unwrap();
    assert_eq!((security.run_as_user, security.read_only_root_filesystem), (Some(1001), Some(true)));
    assert_eq!((&server.command, &server.lifecycle), (&bare.command, &bare.lifecycle));
    assert_eq!(pod.metadata.labels.unwrap()["team"], "a");
    assert_eq!(build::service(&desired).metadata.labels.unwrap()["shown"], "a");
    let none = build::service(&minimal());
    assert!(build::drifted(&none, &build::service(&desired)), "what is not wanted any more is seen");
}
