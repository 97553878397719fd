//! Switches nodes between plain text and TLS: every one of them is identified before the first is told.

use std::sync::Arc;

use futures::FutureExt;

use super::{Asked, Done, PARALLEL, ValkeyExecutor, refused};
use crate::model::{Mode, Target};
use crate::parallel;
use crate::valkey::commands;
use crate::valkey::node::Node;

impl ValkeyExecutor {
    pub(super) async fn switch(&self, on: &[Target], to: Mode) -> Done {
        let asked: Vec<Asked> = self.facts_of(on).await.into_iter().map(|(_, asked)| asked).collect();
        let mut nodes: Vec<(&Target, Arc<dyn Node>)> = Vec::with_capacity(on.len());
        for (target, asked) in on.iter().zip(asked) {
            nodes.push((target, asked?.0));
        }
        let tell = |(target, node): (&Target, Arc<dyn Node>)| {
            let target = target.clone();
            async move { commands::switch(node.as_ref(), to).await.map_err(|e| refused(&target, &e)) }.boxed()
        };
        let told = parallel::all(nodes.into_iter().map(tell).collect(), PARALLEL).await;
        told.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }
}
