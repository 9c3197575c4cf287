use std::collections::HashMap;
use std::sync::Arc;

use key_server_core::{IdError, ModelName};

/// Gives equal names one allocation: many keys serve the same few models.
#[derive(Default)]
pub(crate) struct Interner {
    models: HashMap<Box<str>, ModelName>,
    sources: HashMap<Box<str>, Arc<str>>,
}

impl Interner {
    pub(crate) fn model(&mut self, text: &str) -> Result<ModelName, IdError> {
        if let Some(model) = self.models.get(text) {
            return Ok(model.clone());
        }
        let model: ModelName = text.parse()?;
        self.models.insert(text.into(), model.clone());
        Ok(model)
    }

    pub(crate) fn source(&mut self, text: &str) -> Arc<str> {
        if let Some(source) = self.sources.get(text) {
            return Arc::clone(source);
        }
        let source: Arc<str> = text.into();
        self.sources.insert(text.into(), Arc::clone(&source));
        source
    }
}
