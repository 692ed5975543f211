//! How many connections each address has, so that one cannot take all the room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_operations::rate::network;

/// Who is there, at one door.
#[derive(Clone)]
pub(super) struct Crowd(Arc<Inside>);

struct Inside {
    most: usize,
    each: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place; it is free again when this is dropped.
pub(super) struct Place {
    crowd: Crowd,
    of: IpAddr,
}

impl Crowd {
    pub(super) fn new(most: usize) -> Self {
        let each = Mutex::default();
        Self(Arc::new(Inside { most, each }))
    }

    /// A place for a connection from there; `None` when it has as many as it may.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Place> {
        let of = network(from);
        let mut each = self.each();
        if each.get(&of).copied().unwrap_or(0) >= self.0.most {
            return None;
        }
        *each.entry(of).or_insert(0) += 1;
        drop(each);
        Some(Place {
            crowd: self.clone(),
            of,
        })
    }

    /// How many there are from there.
    pub(super) fn there(&self, from: IpAddr) -> usize {
        self.each().get(&network(from)).copied().unwrap_or(0)
    }

    fn each(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.each.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut each = self.crowd.each();
        if let Some(there) = each.get_mut(&self.of) {
            *there -= 1;
            if *there == 0 {
                each.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let crowd = Crowd::new(2);
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let (first, second) = (crowd.enter(here), crowd.enter(here));
        assert_eq!((crowd.there(here), crowd.there(there)), (2, 0));
        assert!(first.is_some() && second.is_some());
        assert!(crowd.enter(here).is_none(), "a third");
        assert!(crowd.enter(there).is_some(), "somebody else");
        drop(first);
        let third = crowd.enter(here);
        assert!(third.is_some(), "a place is free");
        drop((second, third));
        assert!(crowd.each().is_empty(), "nobody is remembered");
    }

    #[test]
    fn nobody_is_remembered_who_was_not_let_in() {
        let crowd = Crowd::new(0);
        assert!(crowd.enter(IpAddr::from([10, 0, 0, 1])).is_none());
        assert!(crowd.each().is_empty());
    }
}
