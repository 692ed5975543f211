//! Building a registry: services become operations, and contradictions become errors.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{BoundHandler, Registered, Registry};
use crate::call::Authority;
use crate::define::{Definition, ErasedHandler, Kind, Service};
use crate::name::{NameError, OperationName};
use crate::schema::InputCheck;

/// Why definitions do not make a registry. Each is a mistake in the program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DefinitionError {
    /// A service or an operation has no proper name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two operations have one name.
    #[error("the operation {0} is defined twice")]
    Duplicate(OperationName),
    /// Two operations have one REST route.
    #[error("{route} leads to both {first} and {second}")]
    Route {
        /// Method and path.
        route: String,
        /// The operation that was there first.
        first: OperationName,
        /// The one that came after.
        second: OperationName,
    },
    /// A path has a field in braces that the input does not have.
    #[error("{operation}: the path {path} has the field {field:?}, its input has not")]
    PathField {
        /// The operation.
        operation: OperationName,
        /// Its path.
        path: String,
        /// The field.
        field: String,
    },
    /// An operation that does not exist outside has a REST route.
    #[error("{0} is internal and has a REST route")]
    InternalRoute(OperationName),
    /// An operation composes one that does not exist.
    #[error("{operation} composes {unknown:?}, which is not registered")]
    Composes {
        /// The operation.
        operation: OperationName,
        /// What it names.
        unknown: String,
    },
    /// A subscription numbers its outputs by a field that they do not have, or it is none.
    #[error("{operation} is resumed by the field {field:?}, which is no number of its outputs")]
    ResumedBy {
        /// The operation.
        operation: OperationName,
        /// The field.
        field: &'static str,
    },
    /// An operation has nothing to say about itself.
    #[error("{0} has no description: write a doc comment on its input type")]
    Undescribed(OperationName),
    /// A schema does not compile.
    #[error("the input schema of {operation} is not valid: {problem}")]
    Schema {
        /// The operation.
        operation: OperationName,
        /// What the validator says.
        problem: String,
    },
}

/// Collects services until [`RegistryBuilder::build`] checks them.
#[derive(Default)]
pub struct RegistryBuilder {
    operations: Vec<Result<Registered, DefinitionError>>,
}

impl RegistryBuilder {
    /// Adds a service, bound to the state that its handlers work on.
    #[must_use]
    pub fn service<S: Send + Sync + 'static>(
        mut self,
        service: Service<S>,
        state: &Arc<S>,
    ) -> Self {
        for operation in service.operations {
            let registered = register(
                &service.name,
                operation.definition,
                operation.handler,
                state,
            );
            self.operations.push(registered);
        }
        self
    }

    /// Checks all definitions and makes the registry, with `services/list` and `services/schema`
    /// added to it.
    ///
    /// # Errors
    /// [`DefinitionError`], the first contradiction found.
    pub fn build(self) -> Result<Arc<Registry>, DefinitionError> {
        let this = self.service(crate::discovery::operations(), &Arc::new(()));
        let mut operations = BTreeMap::new();
        let mut routes: BTreeMap<String, OperationName> = BTreeMap::new();
        for registered in this.operations {
            let registered = registered?;
            check_routes(&registered, &mut routes)?;
            let name = registered.name.clone();
            if operations
                .insert(name.clone(), Arc::new(registered))
                .is_some()
            {
                return Err(DefinitionError::Duplicate(name));
            }
        }
        for registered in operations.values() {
            let reachable = registered.authority.iter().flat_map(|a| &a.reachable);
            if let Some(unknown) = reachable.into_iter().find(|n| !operations.contains_key(*n)) {
                return Err(DefinitionError::Composes {
                    operation: registered.name.clone(),
                    unknown: unknown.to_string(),
                });
            }
        }
        Ok(Arc::new_cyclic(|itself| Registry {
            operations,
            itself: itself.clone(),
        }))
    }
}

fn register<S: Send + Sync + 'static>(
    service: &str,
    definition: Definition,
    handler: ErasedHandler<S>,
    state: &Arc<S>,
) -> Result<Registered, DefinitionError> {
    let name = OperationName::new(service, &definition.operation)?;
    if definition.description.is_empty() {
        return Err(DefinitionError::Undescribed(name));
    }
    if definition.internal && !definition.rest.is_empty() {
        return Err(DefinitionError::InternalRoute(name));
    }
    if let Some(field) = definition.resumed_by {
        let kind = &definition.output.as_value()["properties"][field]["type"];
        if definition.kind != Kind::Subscription || kind != "integer" {
            return Err(DefinitionError::ResumedBy {
                operation: name,
                field,
            });
        }
    }
    let check = InputCheck::new(&definition.input).map_err(|problem| DefinitionError::Schema {
        operation: name.clone(),
        problem,
    })?;
    let authority = match (
        &definition.authority,
        definition.composing_identity(service),
    ) {
        (Some((_, operations)), Some(identity)) => {
            let reachable = operations
                .iter()
                .map(|o| o.parse())
                .collect::<Result<_, _>>()?;
            Some(Arc::new(Authority {
                identity,
                reachable,
            }))
        }
        _ => None,
    };
    let state = Arc::clone(state);
    let handler = match handler {
        ErasedHandler::Once(f) => BoundHandler::Once(Box::new(move |call, input| {
            f(Arc::clone(&state), call, input)
        })),
        ErasedHandler::Many(f) => BoundHandler::Many(Box::new(move |call, input| {
            f(Arc::clone(&state), call, input)
        })),
    };
    Ok(Registered {
        name,
        definition,
        authority,
        check,
        handler,
    })
}

fn check_routes(
    registered: &Registered,
    routes: &mut BTreeMap<String, OperationName>,
) -> Result<(), DefinitionError> {
    let name = &registered.name;
    for rest in registered.rest() {
        let properties = registered
            .input_schema()
            .get("properties")
            .and_then(Value::as_object);
        for field in rest.path_fields() {
            if !properties.is_some_and(|p| p.contains_key(field)) {
                return Err(DefinitionError::PathField {
                    operation: name.clone(),
                    path: rest.path.clone(),
                    field: field.to_owned(),
                });
            }
        }
        // Two templates that differ only in the names of their fields are one route.
        let shape: Vec<&str> = rest
            .path
            .split('/')
            .map(|segment| {
                if segment.starts_with('{') {
                    "{}"
                } else {
                    segment
                }
            })
            .collect();
        let route = format!("{} {}", rest.method, shape.join("/"));
        if let Some(first) = routes.insert(route.clone(), name.clone()) {
            return Err(DefinitionError::Route {
                route,
                first,
                second: name.clone(),
            });
        }
    }
    Ok(())
}
