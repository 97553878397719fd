//! Which scripts are lived with real processes, on which version, and why the others are not.

/// Those of each test run: one of each kind of story, and the versions where they differ.
pub(crate) const OFTEN: &[(&str, Option<&str>)] = &[
    // The longest first: the others are lived beside it.
    ("upgrade_8_0_to_9_1", None),
    ("scale_out_3_to_4", Some("8.1.1")),
    ("create_3x1", Some("8.0.1")),
    ("primary_killed_with_replica", Some("8.1.1")),
    ("replicas_raised_and_lowered", Some("8.0.1")),
    ("scale_out_3_to_4", None),
    ("operator_dies_while_forming", None),
    ("cordon", None),
    ("worker_cut_off", None),
    ("hidden_while_newcomers_join", None),
    ("api_away_while_upgrading", None),
    ("worker_shuts_down", None),
    ("shard_killed", None),
    ("rotation", None),
];

/// Those of `SCRIPTS=all` beside every script on its own version.
pub(crate) const OLDER: &[(&str, &str)] = &[
    ("create_3x1", "8.0.1"),
    ("create_3x1", "8.1.1"),
    ("primary_killed_with_replica", "8.0.1"),
    ("primary_killed_with_replica", "8.1.1"),
    ("scale_out_3_to_4", "8.0.1"),
    ("scale_out_3_to_4", "8.1.1"),
    ("scale_in_4_to_3", "8.0.1"),
    ("replicas_raised_and_lowered", "8.0.1"),
    ("replicas_raised_and_lowered", "8.1.1"),
    ("primary_deleted", "8.0.1"),
];

/// What cannot be done to processes of one machine without what only root may do, or without the simulated world's own sizes.
pub(crate) const NOT: &[(&str, &str)] = &[
    (
        "cut_in_two_while_forming",
        "both sides of the cut live on, and its kills are those that the simulated world can answer for (gentle)",
    ),
    (
        "force_deleted_while_forming",
        "an operator sees Pods that are 0.9 s old: a real watch is not held back to the tenth",
    ),
    ("retired_without_a_primary", "the same, and events that are tenths of a second apart"),
    ("scale_in_would_not_fit", "its maxmemory of 1,500 bytes is a size of the simulated world"),
    ("target_dies_half_way", "it kills only what the simulated world can answer for (gentle)"),
];
