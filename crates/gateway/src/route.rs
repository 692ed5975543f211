//! The path table: which target a method and a path lead to.
//!
//! A tree over path segments, built once from the registry. A fixed segment goes before a field
//! (`/v1/hosts/watch` before `/v1/hosts/{id}`), and when the fixed branch has no answer for the
//! method the field's branch is still asked. Segments are compared after percent-decoding
//! (RFC 3986 section 6.2.2), each by itself, so that an encoded slash stays inside its field.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::Method;

use crate::input::percent;

/// Maps paths to targets of type `T`.
pub(crate) struct Table<T> {
    root: Node<T>,
}

struct Node<T> {
    fixed: BTreeMap<String, Node<T>>,
    field: Option<Box<Node<T>>>,
    targets: Vec<(Method, T)>,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Found<'t, 'p, T> {
    /// A target, with the decoded values of the path's fields in their order.
    Target(&'t T, Vec<Cow<'p, str>>),
    /// The path exists, with these methods and not with this one. One of its targets comes along.
    OtherMethods(&'t T, Vec<&'t Method>),
    /// There is no such path.
    Nothing,
}

/// Why a template does not fit into the table. Each is a mistake in the program.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The template is not a path.
    #[error("{0:?} is not a path: it begins with / and a field in braces is a whole segment")]
    Template(String),
    /// Two routes have one method and one path.
    #[error("{method} {path} has two targets; give one of them another path")]
    Taken {
        /// The method.
        method: Method,
        /// The path template of the later one.
        path: String,
    },
}

impl<T> Node<T> {
    fn new() -> Self {
        Self {
            fixed: BTreeMap::new(),
            field: None,
            targets: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self { root: Node::new() }
    }

    pub(crate) fn insert(
        &mut self,
        method: Method,
        template: &str,
        target: T,
    ) -> Result<(), RouteError> {
        let not_a_path = || RouteError::Template(template.to_owned());
        let mut node = &mut self.root;
        for segment in template
            .strip_prefix('/')
            .ok_or_else(not_a_path)?
            .split('/')
        {
            let field = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            node = match field {
                Some(name) if !name.is_empty() && !name.contains(['{', '}']) => {
                    node.field.get_or_insert_with(|| Box::new(Node::new()))
                }
                None if !segment.contains(['{', '}', '%', '?', '#']) => node
                    .fixed
                    .entry(segment.to_owned())
                    .or_insert_with(Node::new),
                _ => return Err(not_a_path()),
            };
        }
        if node.targets.iter().any(|(m, _)| *m == method) {
            return Err(RouteError::Taken {
                method,
                path: template.to_owned(),
            });
        }
        node.targets.push((method, target));
        Ok(())
    }

    /// Looks a path up. `HEAD` finds what `GET` does (RFC 9110 section 9.3.2).
    pub(crate) fn find<'t, 'p>(&'t self, method: &Method, path: &'p str) -> Found<'t, 'p, T> {
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let Some(path) = path.strip_prefix('/') else {
            return Found::Nothing;
        };
        let is_encoded = path.contains('%');
        if is_encoded && path.split('/').map(percent::decode).any(|s| s.is_err()) {
            return Found::Nothing;
        }
        let mut search = Search {
            method,
            is_encoded,
            values: Vec::new(),
            others: Vec::new(),
        };
        match search.descend(&self.root, Some(path)) {
            Some(target) => Found::Target(target, search.values),
            None => match search.others.first() {
                Some((_, target)) => {
                    let mut methods: Vec<&Method> = search.others.iter().map(|(m, _)| *m).collect();
                    methods.sort_by_key(|m| m.as_str());
                    methods.dedup();
                    Found::OtherMethods(target, methods)
                }
                None => Found::Nothing,
            },
        }
    }
}

/// A walk down the tree. It takes no memory for a path without fields.
struct Search<'t, 'p, 'm, T> {
    method: &'m Method,
    is_encoded: bool,
    values: Vec<Cow<'p, str>>,
    others: Vec<(&'t Method, &'t T)>,
}

impl<'t, 'p, T> Search<'t, 'p, '_, T> {
    /// Goes on from a node with what is left of the path, `None` behind its last segment.
    fn descend(&mut self, node: &'t Node<T>, rest: Option<&'p str>) -> Option<&'t T> {
        let Some(rest) = rest else {
            let target = node.targets.iter().find(|(m, _)| m == self.method);
            if target.is_none() {
                self.others.extend(node.targets.iter().map(|(m, t)| (m, t)));
            }
            return target.map(|(_, t)| t);
        };
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        let segment = match self.is_encoded {
            true => percent::decode(segment).ok()?,
            false => Cow::Borrowed(segment),
        };
        if let Some(next) = node.fixed.get(segment.as_ref())
            && let Some(target) = self.descend(next, rest)
        {
            return Some(target);
        }
        let next = node.field.as_deref().filter(|_| !segment.is_empty())?;
        self.values.push(segment);
        let target = self.descend(next, rest);
        if target.is_none() {
            self.values.pop();
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<&'static str> {
        let mut table = Table::new();
        for (method, path, target) in [
            (Method::GET, "/v1/hosts", "list"),
            (Method::POST, "/v1/hosts", "create"),
            (Method::GET, "/v1/hosts/{id}", "get"),
            (Method::DELETE, "/v1/hosts/{id}", "delete"),
            (Method::GET, "/v1/hosts/watch", "watch"),
            (Method::DELETE, "/v1/hosts/{id}/tags/{tag}", "untag"),
        ] {
            table.insert(method, path, target).expect("a free path");
        }
        table
    }

    fn found(method: Method, path: &str) -> String {
        match table().find(&method, path) {
            Found::Target(target, values) => format!("{target} {}", values.join(",")),
            Found::OtherMethods(_, methods) => format!("allow {methods:?}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn a_fixed_segment_goes_before_a_field_and_leaves_the_other_methods_to_it() {
        assert_eq!(found(Method::GET, "/v1/hosts/watch"), "watch ");
        assert_eq!(found(Method::DELETE, "/v1/hosts/watch"), "delete watch");
        assert_eq!(found(Method::GET, "/v1/hosts/h1"), "get h1");
        assert_eq!(found(Method::HEAD, "/v1/hosts/h1"), "get h1");
    }

    #[test]
    fn an_encoded_slash_stays_inside_its_field() {
        assert_eq!(
            found(Method::DELETE, "/v1/hosts/a/tags/b%2Fc%20d"),
            "untag a,b/c d"
        );
        assert_eq!(found(Method::GET, "/%761/hosts"), "list ");
    }

    #[test]
    fn a_known_path_names_its_methods() {
        assert_eq!(found(Method::PUT, "/v1/hosts"), "allow [GET, POST]");
        assert_eq!(
            found(Method::POST, "/v1/hosts/watch"),
            "allow [DELETE, GET]"
        );
    }

    #[test]
    fn what_is_no_path_of_ours_leads_nowhere() {
        for path in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/hosts/",
            "/v1//hosts",
            "/v1/hosts//tags/x",
            "/v1/hosts/%zz",
            "/v1/hosts/%ff",
            "/v1/hosts/%2",
            "/V1/hosts",
        ] {
            assert_eq!(found(Method::GET, path), "nothing", "{path:?}");
        }
    }

    #[test]
    fn contradictory_templates_are_refused() {
        let mut table = table();
        let taken = table.insert(Method::GET, "/v1/hosts/{name}", "again");
        assert!(matches!(taken, Err(RouteError::Taken { .. })), "{taken:?}");
        for bad in ["v1", "/v1/{", "/v1/{}", "/v1/a{b}", "/v1/{a}b", "/a?b"] {
            let refused = table.insert(Method::PUT, bad, "bad");
            assert!(
                matches!(refused, Err(RouteError::Template(_))),
                "{bad:?}: {refused:?}"
            );
        }
    }
}
