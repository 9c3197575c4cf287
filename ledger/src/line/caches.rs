use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use key_server_core::ModelName;

use super::scanner::Scanner;
use crate::error::Fault;
use crate::record::Caller;

const MODEL_SLOTS: usize = 256;

/// Texts of the lines before, so that equal ones share their memory.
///
/// Bounded: the last node and caller, and one model for each slot.
pub(super) struct Caches {
    node: Option<Arc<str>>,
    caller: Option<Arc<Caller>>,
    models: Vec<Option<ModelName>>,
}

impl Default for Caches {
    fn default() -> Self {
        Self { node: None, caller: None, models: vec![None; MODEL_SLOTS] }
    }
}

impl Caches {
    pub(super) fn node(&mut self, text: &str) -> Arc<str> {
        match &self.node {
            Some(node) if **node == *text => Arc::clone(node),
            _ => Arc::clone(self.node.insert(text.into())),
        }
    }

    pub(super) fn caller(
        &mut self,
        (uid, gid, pid): (u32, u32, u32),
        started_ms: Option<u64>,
        exe: Option<&str>,
    ) -> Arc<Caller> {
        if let Some(caller) = &self.caller
            && (caller.uid, caller.gid, caller.pid) == (uid, gid, pid)
            && caller.started_ms == started_ms
            && caller.exe.as_deref() == exe
        {
            return Arc::clone(caller);
        }
        let caller = Caller { uid, gid, pid, started_ms, exe: exe.map(Arc::from) };
        Arc::clone(self.caller.insert(Arc::new(caller)))
    }

    /// Reads a model's name.
    pub(super) fn model(&mut self, scanner: &mut Scanner<'_>) -> Result<ModelName, Fault> {
        let fault = scanner.expected("a model such as openai/gpt-4o");
        let text = scanner.text()?;
        let slot = &mut self.models[slot(&text)];
        match slot {
            Some(model) if model.as_str() == text => Ok(model.clone()),
            _ => {
                let model: ModelName = text.parse().map_err(|_| fault.clone())?;
                let canonical = model.as_str() == text;
                canonical.then(|| slot.insert(model).clone()).ok_or(fault)
            }
        }
    }
}

fn slot(text: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as usize % MODEL_SLOTS
}
