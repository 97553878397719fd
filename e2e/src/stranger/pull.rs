//! Decides what a person is told when no worker has an image and none can pull it. Pure.

use k8s_openapi::api::core::v1::Pod;

/// An image that cannot be had, for a Pod that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    image: String,
    /// The kubelet's word: `ErrImagePull`, …
    reason: String,
    /// What the kubelet says.
    message: String,
}

impl Pull {
    /// The first container of the Pod whose image cannot be had.
    pub fn of(pod: &Pod) -> Option<Self> {
        let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
        containers.iter().find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref()?;
            let pulls = ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"];
            let message = waiting.message.clone().unwrap_or_default();
            let found = Self { image: container.image.clone(), reason: reason.to_owned(), message };
            pulls.contains(&reason).then_some(found)
        })
    }

    /// What is wrong and what to do, for the context's kind of cluster; `option` names another image.
    pub fn sentence(&self, context: &str, option: &str) -> String {
        let Self { image, reason, message } = self;
        let local = image.starts_with("localhost/");
        let archive = if local {
            "`cargo sandbox images` builds it and names its archive"
        } else {
            "save it to an archive"
        };
        let (kind, k3d) = (context.strip_prefix("kind-"), context.strip_prefix("k3d-"));
        let load_kind = format!("`kind load image-archive ARCHIVE --name {}`", kind.unwrap_or("CLUSTER"));
        let load_k3d = format!("`k3d image import ARCHIVE --cluster {}`", k3d.unwrap_or("CLUSTER"));
        let load = match (kind, k3d) {
            (Some(_), _) => load_kind,
            (None, Some(_)) => load_k3d,
            (None, None) => format!("{load_kind} or {load_k3d}"),
        };
        format!(
            "the workers have no image {image} and cannot pull it ({reason}: {message}): {archive}, then {load} gives it \
             to the workers; or push it to a registry and name it with {option}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(reason: &str) -> Pod {
        let waiting = serde_json::json!({ "waiting": { "reason": reason, "message": "no such host" } });
        let container = serde_json::json!({ "name": "ledger", "image": "localhost/x:dev", "imageID": "", "ready": false,
            "restartCount": 0, "state": waiting });
        serde_json::from_value(serde_json::json!({ "status": { "containerStatuses": [container] } })).unwrap()
    }

    #[test]
    fn the_sentence_names_the_command_that_loads_it() {
        let pull = Pull::of(&pod("ErrImagePull")).unwrap();
        let kind = pull.sentence("kind-try", "--ledger-image");
        assert!(
            kind.contains("kind load image-archive ARCHIVE --name try") && !kind.contains("k3d"),
            "{kind}"
        );
        let other = pull.sentence("prod", "--ledger-image");
        assert!(other.contains("k3d image import") && other.contains("--ledger-image"), "{other}");
        assert_eq!(Pull::of(&pod("ContainerCreating")), None);
    }
}
