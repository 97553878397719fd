//! What is refused at admission, each with a sentence that says what to write instead.
//!
//! Pure: CEL rules as data. The API server evaluates them, so a bad spec never reaches the operator.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;

use super::{
    MAX_NAME,
    keys::{MANAGED, ManagedClass},
    users,
};

/// Least memory limit, in the unit of a quantity. A container with 2Mi does not even start, and an empty node
/// that is part of a cluster and copies to a replica needs several times what its process takes when idle.
pub const MIN_MEMORY: &str = "32Mi";

/// Range of `cluster-node-timeout` in milliseconds: below, a busy moment looks like a crash; above, a lost
/// worker's shards stand still for minutes.
pub const NODE_TIMEOUT_MS: std::ops::RangeInclusive<u32> = 500..=60_000;

/// Fields of the group's other operator that this one cannot honour: declared only so that admission can refuse
/// them with a sentence, where an unknown field would be dropped in silence.
pub const REFUSED_FIELDS: &[(&str, &str, &str)] = &[
    (
        "persistence",
        "object",
        "persistence is not supported: this operator keeps data in memory on several workers; remove spec.persistence",
    ),
    (
        "workloadType",
        "string",
        "workloadType is not supported: this operator owns the pods itself, without StatefulSets or Deployments; remove spec.workloadType",
    ),
];

/// One CEL rule and where in the schema it stands.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Name of the rule, unique, for tests and documentation.
    pub id: String,
    /// Properties from the root of the object to the place of the rule; empty for the root.
    pub path: &'static [&'static str],
    /// The rule itself.
    pub rule: ValidationRule,
}

/// Every rule, in the order in which the API server reports them.
pub fn all() -> Vec<Placed> {
    let mut rules = vec![name_is_a_label(), name_is_short()];
    rules.extend(REFUSED_FIELDS.iter().map(|(field, _, sentence)| {
        let rule = ValidationRule {
            field_path: Some(format!(".{field}")),
            ..says(&format!("!has(self.{field})"), sentence)
        };
        Placed { id: (*field).to_owned(), path: &["spec"], rule }
    }));
    rules.extend([image(), max_disrupted()]);
    rules.extend([pinning_alone(), pinned_zones_once(), pinned_by_one()]);
    rules.extend(metadata());
    rules.extend([ours_changed(), ours_environment(), added_image(), exporter_changed()]);
    rules.extend([config_names(), config_name_length(), config_values()]);
    rules.extend(MANAGED.iter().map(managed));
    rules.extend([node_timeout(), diskless_load()]);
    rules.extend([user_names(), user_permissions()]);
    rules.extend([quantities(), least_memory(), requests_within_limits()]);
    rules
}

fn says(rule: &str, sentence: &str) -> ValidationRule {
    ValidationRule { rule: rule.to_owned(), message: Some(sentence.to_owned()), ..Default::default() }
}

fn at(id: &str, path: &'static [&'static str], rule: &str, sentence: &str) -> Placed {
    Placed { id: id.to_owned(), path, rule: says(rule, sentence) }
}

const ROOT: &[&str] = &[];
const IMAGE: &[&str] = &["spec", "image"];
const MAX_DISRUPTED: &[&str] = &["spec", "maxDisruptedShards"];
const SCHEDULING: &[&str] = &["spec", "scheduling"];
const ZONE: &[&str] = &["spec", "scheduling", "zone"];
const PINNING: &[&str] = &["spec", "scheduling", "zone", "pinning"];
const SPEC: &[&str] = &["spec"];
const CONTAINERS: &[&str] = &["spec", "containers"];
const CONFIG: &[&str] = &["spec", "config"];
const USERS: &[&str] = &["spec", "users"];
const RESOURCES: &[&str] = &["spec", "resources"];

fn name_is_a_label() -> Placed {
    at(
        "name-is-a-label",
        ROOT,
        "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must consist of lower case letters, digits and '-' (no dots): it becomes part of host names",
    )
}

fn name_is_short() -> Placed {
    at(
        "name-is-short",
        ROOT,
        &format!("self.metadata.name.size() <= {MAX_NAME}"),
        &format!(
            "metadata.name must be at most {MAX_NAME} characters: pods are named valkey-<name>-<shard>-<n> and host names end at 63"
        ),
    )
}

fn image() -> Placed {
    at(
        "image",
        IMAGE,
        r"self.matches('^[^\\s]+$')",
        "image must be one image reference without spaces, such as docker.io/valkey/valkey:9.1.2",
    )
}

fn max_disrupted() -> Placed {
    at(
        "max-disrupted-shards",
        MAX_DISRUPTED,
        "string(self).matches('^([1-9][0-9]{0,3}|([1-9][0-9]?|100)%)$')",
        "maxDisruptedShards is a number of shards from 1 on, or a percentage of them such as 25%; leave it out for 1",
    )
}

fn pinning_alone() -> Placed {
    let off = |what| {
        format!(
            "(!has(self.spread.{what}) || !has(self.spread.{what}.mode) || self.spread.{what}.mode == 'Disabled')"
        )
    };
    at(
        "pinning-alone",
        ZONE,
        &format!("!has(self.pinning) || !has(self.spread) || ({} && {})", off("shard"), off("pods")),
        "scheduling.zone: pinning gives every copy its zone already; leave out spread.shard and spread.pods beside it, or set their mode to Disabled",
    )
}

fn pinned_zones_once() -> Placed {
    at(
        "pinned-zones-once",
        PINNING,
        "self.zones.all(z, self.zones.exists_one(y, y == z))",
        "scheduling.zone.pinning: name each zone once; copies go round the list by themselves",
    )
}

fn pinned_by_one() -> Placed {
    at(
        "pinned-by-one",
        SCHEDULING,
        "!has(self.zone) || !has(self.zone.pinning) || !has(self.nodeSelector) || !('topology.kubernetes.io/zone' in self.nodeSelector)",
        "scheduling: nodeSelector cannot name topology.kubernetes.io/zone beside zone.pinning, which names the zone of each copy; remove one of them",
    )
}

/// Labels and annotations: `(id, place, whether labels)`.
const METADATA: &[(&str, &[&str], bool)] = &[
    ("pod-labels", &["spec", "podMetadata", "labels"], true),
    ("pod-annotations", &["spec", "podMetadata", "annotations"], false),
    ("service-labels", &["spec", "serviceMetadata", "labels"], true),
    ("service-annotations", &["spec", "serviceMetadata", "annotations"], false),
];

fn metadata() -> impl Iterator<Item = Placed> {
    METADATA.iter().flat_map(|(id, path, labels)| {
        let recommended = if *labels { " || k.startsWith('app.kubernetes.io/')" } else { "" };
        let ours = format!("k.startsWith('valkey.io/') || k.startsWith('before.valkey.io/'){recommended}");
        let says_why = "belongs to the operator, which tells members by it; give yours another prefix";
        let reserved = ValidationRule {
            rule: format!("!self.exists(k, {ours})"),
            message: Some(format!("a key of {id} {says_why}")),
            message_expression: Some(format!("self.filter(k, {ours})[0] + \" {says_why}\"")),
            ..Default::default()
        };
        let named = at(
            &format!("{id}-names"),
            path,
            "self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
            "keys of labels and annotations are letters, digits, '-', '_' and '.', at most 63, after a prefix such as example.com/ if you like",
        );
        [Placed { id: format!("{id}-reserved"), path, rule: reserved }, named]
    })
}

fn ours_changed() -> Placed {
    let fields =
        ["image", "command", "args", "ports", "resources", "livenessProbe", "readinessProbe", "startupProbe"];
    let given = fields.map(|f| format!("has(c.{f})")).join(" || ");
    at(
        "ours-changed",
        CONTAINERS,
        &format!("self.all(c, !(c.name in ['server', 'metrics-exporter']) || !({given}))"),
        "containers: of server and metrics-exporter only env, envFrom, imagePullPolicy and securityContext can be changed here; write spec.image, spec.resources, spec.config or spec.exporter for the rest (a probe that fails would end a server that copies)",
    )
}

fn ours_environment() -> Placed {
    at(
        "ours-environment",
        CONTAINERS,
        "self.all(c, c.name != 'server' || !has(c.env) || c.env.all(e, !(e.name in ['POD_IP', 'POD_NAME', 'POD_UID'])))",
        "containers: POD_IP, POD_NAME and POD_UID of server are set by the operator, which announces the node by them; give your variable another name",
    )
}

fn added_image() -> Placed {
    at(
        "added-image",
        CONTAINERS,
        "self.all(c, c.name in ['server', 'metrics-exporter'] || has(c.image))",
        "containers: one that is added needs an image; to change one of the operator's, its name is server or metrics-exporter",
    )
}

fn exporter_changed() -> Placed {
    at(
        "exporter-changed",
        SPEC,
        "!has(self.containers) || !self.containers.exists(c, c.name == 'metrics-exporter') || (has(self.exporter) && has(self.exporter.enabled) && self.exporter.enabled)",
        "containers: metrics-exporter is changed, but there is none; set spec.exporter.enabled to true, or give your container another name",
    )
}

fn config_names() -> Placed {
    at(
        "config-names",
        CONFIG,
        "self.all(k, k.matches('^[a-z][a-z0-9-]*$'))",
        "config: names of settings are lower case letters, digits and '-', as in valkey.conf, such as maxmemory-policy",
    )
}

fn config_name_length() -> Placed {
    at(
        "config-name-length",
        CONFIG,
        "self.all(k, k.size() <= 64)",
        "config: names of settings have at most 64 characters; no setting of Valkey is longer",
    )
}

fn config_values() -> Placed {
    at(
        "config-values",
        CONFIG,
        r"self.all(k, self[k].matches('^[^\\x00-\\x1f\\x7f]*$'))",
        "config: values are one line of text without control characters; give each setting its own name",
    )
}

fn node_timeout() -> Placed {
    let (least, most) = (NODE_TIMEOUT_MS.start(), NODE_TIMEOUT_MS.end());
    at(
        "node-timeout",
        CONFIG,
        &format!(
            "!('cluster-node-timeout' in self) || (self['cluster-node-timeout'].matches('^[0-9]{{1,6}}$') && int(self['cluster-node-timeout']) >= {least} && int(self['cluster-node-timeout']) <= {most})"
        ),
        &format!(
            "config: cluster-node-timeout is in milliseconds, {least} to {most}, digits only; leave it out for 2000"
        ),
    )
}

fn diskless_load() -> Placed {
    at(
        "repl-diskless-load",
        CONFIG,
        "!('repl-diskless-load' in self) || self['repl-diskless-load'] in ['on-empty-db', 'swapdb']",
        "config: repl-diskless-load is on-empty-db or swapdb: the others need a disk, or can lose a shard whose primary dies during a sync; leave it out for on-empty-db",
    )
}

fn user_names() -> Placed {
    at("user-names", USERS, users::NAMES.0, users::NAMES.1)
}

fn user_permissions() -> Placed {
    at("user-permissions", USERS, users::PERMISSIONS.0, users::PERMISSIONS.1)
}

/// The first refused setting is named in the sentence (joining all of them costs more than the API server allows, as
/// names in a map have no bound that it knows of).
fn managed(class: &ManagedClass) -> Placed {
    let list = class.keys.iter().map(|k| format!("'{k}'")).collect::<Vec<_>>().join(", ");
    let tests = class
        .prefixes
        .iter()
        .map(|p| format!("k.startsWith('{p}')"))
        .chain((!class.keys.is_empty()).then(|| format!("k in [{list}]")))
        .collect::<Vec<_>>()
        .join(" || ");
    let rule = ValidationRule {
        rule: format!("!self.exists(k, {tests})"),
        message: Some(format!("config: a {} setting {}", class.name, class.why)),
        message_expression: Some(format!("'config: ' + self.filter(k, {tests})[0] + \" {}\"", class.why)),
        ..Default::default()
    };
    Placed { id: format!("managed-{}", class.name), path: CONFIG, rule }
}

fn quantities() -> Placed {
    let valid =
        |field| format!("(!has(self.{field}) || self.{field}.all(r, isQuantity(string(self.{field}[r]))))");
    at(
        "quantities",
        RESOURCES,
        &format!("{} && {}", valid("limits"), valid("requests")),
        "resources: amounts are quantities such as 500m, 2, 512Mi or 1Gi",
    )
}

/// `has` and `isQuantity` guard the comparison: another rule refuses what is no quantity.
fn memory(field: &str) -> (String, String) {
    let value = format!("string(self.{field}['memory'])");
    (
        format!("has(self.{field}) && 'memory' in self.{field} && isQuantity({value})"),
        format!("quantity({value})"),
    )
}

fn least_memory() -> Placed {
    let (given, limit) = memory("limits");
    at(
        "least-memory",
        RESOURCES,
        &format!("!({given}) || {limit}.compareTo(quantity('{MIN_MEMORY}')) >= 0"),
        &format!(
            "resources: limits.memory must be at least {MIN_MEMORY}: with less a node is killed while it starts or copies; raise it (the suffix is Mi or Gi, not m)"
        ),
    )
}

fn requests_within_limits() -> Placed {
    let (limited, limit) = memory("limits");
    let (requested, request) = memory("requests");
    at(
        "requests-within-limits",
        RESOURCES,
        &format!("!({limited} && {requested}) || {request}.compareTo({limit}) <= 0"),
        "resources: requests.memory must not be above limits.memory; lower the request or raise the limit",
    )
}
