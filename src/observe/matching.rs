//! What the scheduler would say of a worker before it looks at other Pods: required node affinity, and whether a member could fit
//! there at all.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelectorRequirement, NodeSelectorTerm, ResourceRequirements,
};
use kube::ResourceExt;

use crate::build::quantity;

/// Whether required node affinity lets Pods onto the worker.
pub(super) fn accepted(n: &Node, affinity: Option<&Affinity>) -> bool {
    let required = affinity
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches(n, term)))
}

/// All of a term holds; one that says nothing matches nothing.
fn matches(n: &Node, term: &NodeSelectorTerm) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let mut all = expressions
        .map(|r| holds(n.labels().get(&r.key).map(String::as_str), r))
        .chain(fields.map(|r| r.key == "metadata.name" && holds(Some(n.name_any().as_str()), r)))
        .peekable();
    all.peek().is_some() && all.all(|holds| holds)
}

fn holds(value: Option<&str>, r: &NodeSelectorRequirement) -> bool {
    let values = || r.values.iter().flatten();
    let listed = |v: &str| values().any(|w| w == v);
    let number = |t: &str| t.parse::<i64>().ok();
    let compared = |test: fn(i64, i64) -> bool| {
        let (left, right) = (value.and_then(number), values().next().and_then(|t| number(t)));
        left.zip(right).is_some_and(|(l, r)| test(l, r))
    };
    match r.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|l, r| l > r),
        "Lt" => compared(|l, r| l < r),
        _ => false,
    }
}

/// How many members of this size the worker could hold at most, were there nothing else on it; none when it does not say.
pub(super) fn room(n: &Node, each: &ResourceRequirements) -> Option<usize> {
    let allocatable = n.status.as_ref()?.allocatable.as_ref()?;
    // Kubernetes takes the limit of what has no request.
    let asked = |name: &str| {
        let of = |given: &Option<std::collections::BTreeMap<String, _>>| given.as_ref()?.get(name).cloned();
        let amount: k8s_openapi::apimachinery::pkg::api::resource::Quantity =
            of(&each.requests).or_else(|| of(&each.limits))?;
        quantity::milli(&amount.0).filter(|m| *m > 0)
    };
    let fits = |name: &str| {
        let there = quantity::milli(&allocatable.get(name)?.0)?;
        usize::try_from(there / asked(name)?).ok()
    };
    let pods =
        allocatable.get("pods").and_then(|q| quantity::whole(&q.0)).and_then(|n| usize::try_from(n).ok());
    [fits("cpu"), fits("memory"), pods].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "w1", "labels": { "pool": "cache", "size": "8" } },
            "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "110" } } }))
        .unwrap()
    }

    #[test]
    fn required_affinity_as_the_scheduler_reads_it() {
        let open = |terms: serde_json::Value| {
            let affinity = json!({ "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } });
            accepted(&node(), Some(&serde_json::from_value(affinity).unwrap()))
        };
        let one = |key: &str, operator: &str, values: &[&str]| json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]);
        assert!(accepted(&node(), None) && accepted(&node(), Some(&Affinity::default())));
        assert!(open(one("pool", "In", &["cache", "other"])) && !open(one("pool", "In", &["other"])));
        assert!(open(one("zone", "NotIn", &["a"])) && !open(one("pool", "NotIn", &["cache"])));
        assert!(open(one("size", "Gt", &["7"])) && !open(one("size", "Lt", &["8"])));
        assert!(open(one("pool", "Exists", &[])) && !open(one("pool", "DoesNotExist", &[])));
        let by_name = |name: &str| {
            open(json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] }]))
        };
        assert!(by_name("w1") && !by_name("w2"));
        assert!(!open(json!([{}])), "a term that says nothing matches nothing");
    }

    #[test]
    fn how_many_could_fit() {
        let room = |requests: serde_json::Value| {
            room(&node(), &serde_json::from_value(json!({ "requests": requests })).unwrap())
        };
        assert_eq!(room(json!({})), Some(110));
        assert_eq!(room(json!({ "cpu": "500m", "memory": "3Gi" })), Some(2));
        assert_eq!(room(json!({ "cpu": "8" })), Some(0));
    }
}
