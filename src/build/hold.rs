//! The preStop hook: a pod that is told to go serves on until the operator has released it. Pure.
//!
//! Works with any image that has a shell, without a password and without a network: `nodes.conf` on /dev/shm carries the
//! mark (Valkey 8.0 to 9.1 write `cluster-announce-human-nodename` into it at once, measured).

use k8s_openapi::api::core::v1::{ExecAction, Lifecycle, LifecycleHandler};

use super::config::SOCKET;
use crate::model::snapshot::RELEASED;

/// Seconds before the end of the grace period at which the hook gives up: the server then still has its own time to
/// hand over (`shutdown-on-sigterm failover`, 9.0 and newer), which after an endless hook is 2 s (measured).
const LAST_NET_SECONDS: i64 = 15;

/// $1 is for how many seconds to hold on. Ends when the node was released, when it is alone and owns no slot (nothing
/// hangs on it), when the server has given no answer at all for 5 s (an error is an answer), or when the time is over.
///
/// A server that has not written `nodes.conf` yet is waited for, 30 s at most: the kernel drops a SIGTERM for process 1 of a container
/// that has no handler for it yet, nobody sends a second one, and the Pod stays for its grace period (seen: nine of 129 Pods that
/// were deleted within 2 s of being bound, on a busy machine). Valkey sets its handlers before it writes that file.
///
/// A time-out is 124 with coreutils, and with `BusyBox` (alpine images) 143, the signal that ended the program. /proc/uptime is the
/// one clock that costs no process.
const SCRIPT: &str = r#"read -r now _ < /proc/uptime
end=$(( ${now%.*} + $1 ))
ask=$(( ${now%.*} + 2 ))
born=$(( ${now%.*} + 30 ))
while read -r now _ < /proc/uptime && [ "${now%.*}" -lt "$end" ]; do
  nodes=0 own=
  while read -r id at flags primary ping pong epoch link slots; do
    [ "$id" = vars ] && continue
    nodes=$(( nodes + 1 ))
    case "$flags" in *myself*) own=$slots ;; *) continue ;; esac
    case "$at" in *"nodename=MARK$POD_UID"*) exit 0 ;; esac
  done < /dev/shm/nodes.conf
  [ "$nodes" -eq 1 ] && [ -z "$own" ] && exit 0
  [ "$nodes" -eq 0 ] && [ "${now%.*}" -ge "$born" ] && exit 0
  if [ "${now%.*}" -ge "$ask" ]; then
    timeout 5 valkey-cli -s SOCKET ping > /dev/null 2>&1
    case $? in 124|143) exit 0 ;; esac
    ask=$(( ${now%.*} + 2 ))
  fi
  sleep 0.1
done
"#;

/// The hook of a pod with this grace period, in seconds.
pub(super) fn lifecycle(grace_seconds: i64) -> Lifecycle {
    let script = SCRIPT.replace("MARK", RELEASED).replace("SOCKET", SOCKET);
    let seconds = (grace_seconds - LAST_NET_SECONDS).max(0).to_string();
    let command = ["sh", "-c", &script, "hold", &seconds].map(str::to_owned).to_vec();
    Lifecycle {
        pre_stop: Some(LifecycleHandler {
            exec: Some(ExecAction { command: Some(command) }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
