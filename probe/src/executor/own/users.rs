//! Who wants to know of hits: what threads use while they serve them, and what is dropped once none does any more.
//!
//! A thread that handles a signal can neither wait nor say beforehand what it will look at. So the memory that it finds
//! somebody by is never freed, but used again for others; and whoever has found somebody counts itself first, and then
//! looks whether that one is still there.

#![allow(unsafe_code, reason = "what is published to handlers of signals is read by address")]

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::executor::own::machine;

/// What somebody is.
type Value = Box<dyn Any + Send + Sync>;

/// The place of somebody who wants to know of hits, or of nobody.
#[derive(Debug)]
struct User {
    /// How many uses have begun, and how many of those have ended. What was begun in vain is taken off again.
    begun: AtomicU64,
    ended: AtomicU64,
    /// How many of those that go on seem to have been left by other ways than back, so that they never end. Then it is
    /// nobody else's any more.
    left: AtomicU64,
    /// Null while it is nobody's.
    value: AtomicPtr<Value>,
}

impl User {
    /// Whether nobody uses it at this moment.
    fn is_idle(&self) -> bool {
        // As many have ended as had begun later on: uses that go on have begun only.
        let ended = self.ended.load(Ordering::SeqCst) + self.left.load(Ordering::SeqCst);
        ended >= self.begun.load(Ordering::SeqCst)
    }
}

/// Those who want to know of hits of a site. It only grows, up to as many as there were at once.
#[derive(Debug)]
pub(crate) struct Users(Link);

#[derive(Debug)]
struct Link {
    /// Null where there is nobody.
    user: AtomicPtr<User>,
    next: AtomicPtr<Link>,
}

impl Link {
    const fn new(user: *mut User) -> Link {
        Link { user: AtomicPtr::new(user), next: AtomicPtr::new(ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Link> {
        // SAFETY: what is there was leaked by `Users::add`.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    /// Begins to use who is there.
    #[inline]
    fn hold(&self) -> Option<Held<'_>> {
        let place = self.user.load(Ordering::SeqCst);
        // SAFETY: places of users are never freed.
        let user = unsafe { place.as_ref() }?;
        user.begun.fetch_add(1, Ordering::SeqCst);
        let held = Held { user, link: PhantomData };
        // If it is still there, whoever takes it away from here later finds it in use.
        (self.user.load(Ordering::SeqCst) == place).then_some(held)
    }
}

impl Users {
    pub(crate) const fn new() -> Users {
        Users(Link::new(ptr::null_mut()))
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        std::iter::successors(Some(&self.0), |link| link.next())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.links().all(|link| link.user.load(Ordering::SeqCst).is_null())
    }

    /// Adds who has registered. Nobody else may do so meanwhile.
    pub(crate) fn add(&'static self, registration: &mut Registration) {
        let user = ptr::from_ref(registration.user).cast_mut();
        let mut last = &self.0;
        let vacant = self.links().find(|link| {
            last = link;
            link.user.load(Ordering::SeqCst).is_null()
        });
        let link = match vacant {
            Some(link) => {
                link.user.store(user, Ordering::SeqCst);
                link
            }
            None => {
                let link: &'static Link = Box::leak(Box::new(Link::new(user)));
                last.next.store(ptr::from_ref(link).cast_mut(), Ordering::Release);
                link
            }
        };
        registration.links.push(link);
    }

    /// Those that are there, each of them in use until it is dropped.
    #[inline]
    pub(crate) fn held(&self) -> impl Iterator<Item = Held<'_>> {
        self.links().filter_map(Link::hold)
    }
}

/// Somebody who is being used.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    user: &'static User,
    link: PhantomData<&'a Link>,
}

impl Held<'_> {
    /// What it is.
    #[inline]
    pub(crate) fn value<T: 'static>(&self) -> Option<&T> {
        // SAFETY: the value is not dropped while somebody uses it that has found it where it was.
        let value = unsafe { self.user.value.load(Ordering::SeqCst).as_ref() }?;
        value.downcast_ref()
    }

    /// Ends a use that counts as such: see [`Registration::uses`].
    #[inline]
    pub(crate) fn count(self) {
        self.user.ended.fetch_add(1, Ordering::SeqCst);
        std::mem::forget(self);
    }

    /// Notes that the calling thread tells it of a hit. Returns whom it was telling.
    #[inline]
    pub(crate) fn begin_telling(&self) -> u64 {
        let before = machine::told();
        machine::set_told(ptr::from_ref(self.user) as u64);
        before
    }

    /// Notes that it is telling whom it was telling before.
    #[inline]
    pub(crate) fn end_telling(before: u64) {
        machine::set_told(before);
    }

    /// Whom the calling thread was telling of a hit when it left the handler by other ways than back, if it has.
    pub(crate) fn take_left() -> Option<Held<'static>> {
        let user = machine::told() as *const User;
        machine::set_told(0);
        // SAFETY: places of users are never freed.
        let user = unsafe { user.as_ref() }?;
        Some(Held { user, link: PhantomData })
    }

    /// Ends a use as one that has been left, and that counts. If it has not, as the thread has come to another stack and
    /// may come back, nothing of what it uses is dropped any more.
    pub(crate) fn leave(self) {
        self.user.left.fetch_add(1, Ordering::SeqCst);
        std::mem::forget(self);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.user.begun.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Somebody who can be added to sites. Dropping it takes it away from there, without waiting for those who use it.
#[derive(Debug)]
pub(crate) struct Registration {
    user: &'static User,
    links: Vec<&'static Link>,
    /// How many uses had ended before.
    before: u64,
}

impl Registration {
    /// What it is.
    pub(crate) fn value<T: 'static>(&self) -> Option<&T> {
        // SAFETY: only `close` drops the value, which consumes the registration.
        let value = unsafe { self.user.value.load(Ordering::SeqCst).as_ref() }?;
        value.downcast_ref()
    }

    /// How many uses have ended that count.
    pub(crate) fn uses(&self) -> u64 {
        self.user.ended.load(Ordering::SeqCst).wrapping_sub(self.before)
            + self.user.left.load(Ordering::SeqCst)
    }

    /// Takes it away from all sites: nobody begins to use it any more.
    pub(crate) fn leave(&mut self) {
        for link in self.links.drain(..) {
            link.user.store(ptr::null_mut(), Ordering::SeqCst);
        }
    }

    /// Waits until nobody uses it any more, of whom the caller must be none, and drops what it is after `last` has looked
    /// at that. Its place is returned, to be used again; but not if uses were left.
    ///
    /// A thread that has left one, and come to no probe since, is not told from one that goes on with it: so this waits for
    /// seconds at most, and then drops nothing.
    pub(crate) fn close<R>(mut self, last: impl FnOnce(&Registration) -> R) -> (R, Option<Vacant>) {
        const PATIENCE: Duration = Duration::from_secs(10);
        self.leave();
        let start = Instant::now();
        while !self.user.is_idle() {
            if start.elapsed() >= PATIENCE {
                return (last(&self), None);
            }
            std::thread::yield_now();
        }
        let result = last(&self);
        if self.user.left.load(Ordering::SeqCst) != 0 {
            return (result, None);
        }
        let value = self.user.value.swap(ptr::null_mut(), Ordering::SeqCst);
        if !value.is_null() {
            // SAFETY: it comes from `Box::into_raw`, and nobody has it: nobody finds it any more, and those who had are
            // gone.
            drop(unsafe { Box::from_raw(value) });
        }
        (result, Some(Vacant(self.user)))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The place of nobody.
#[derive(Debug)]
pub(crate) struct Vacant(&'static User);

/// Places of users that are nobody's.
#[derive(Default)]
pub(crate) struct Places(Vec<Vacant>);

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Places").field(&self.0.len()).finish()
    }
}

impl Places {
    pub(crate) const fn new() -> Places {
        Places(Vec::new())
    }

    /// Gives `value` a place.
    pub(crate) fn register(&mut self, value: impl Any + Send + Sync) -> Registration {
        // In a child that was forked while another thread had counted itself in vain, that stays counted.
        let known = std::iter::from_fn(|| self.0.pop()).find(|Vacant(user)| user.is_idle());
        let user = known.map_or_else(
            || {
                let [begun, ended, left] = [const { AtomicU64::new(0) }; 3];
                let user = User { begun, ended, left, value: AtomicPtr::new(ptr::null_mut()) };
                &*Box::leak(Box::new(user))
            },
            |Vacant(user)| user,
        );
        let value: Value = Box::new(value);
        user.value.store(Box::into_raw(Box::new(value)), Ordering::SeqCst);
        Registration { user, links: Vec::new(), before: user.ended.load(Ordering::SeqCst) }
    }

    /// Takes a place back.
    pub(crate) fn put(&mut self, place: Option<Vacant>) {
        self.0.extend(place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn values(users: &'static Users) -> Vec<u32> {
        users.held().filter_map(|held| held.value::<u32>().copied()).collect()
    }

    #[test]
    fn who_has_left_is_dropped_and_its_place_is_used_again() {
        static USERS: Users = Users::new();
        let mut places = Places::new();
        let value = Arc::new(());
        let mut first = places.register(Arc::clone(&value));
        USERS.add(&mut first);
        let mut second = places.register(2_u32);
        USERS.add(&mut second);
        assert_eq!(values(&USERS), [2]);
        USERS.held().for_each(Held::count);
        let (uses, vacant) = first.close(Registration::uses);
        assert_eq!((uses, Arc::strong_count(&value)), (1, 1));
        places.put(vacant);
        let links = USERS.links().count();
        let mut third = places.register(3_u32);
        USERS.add(&mut third);
        assert_eq!((values(&USERS), third.uses(), USERS.links().count()), (vec![3, 2], 0, links));
        assert!(places.0.is_empty());
        second.leave();
        assert_eq!(values(&USERS), [3]);
        drop(third);
        assert!(USERS.is_empty());
    }

    #[test]
    fn nobody_is_used_where_it_is_not_any_more() {
        static HERE: Users = Users::new();
        static THERE: Users = Users::new();
        static STOP: AtomicBool = AtomicBool::new(false);
        let mut places = Places::new();
        std::thread::scope(|scope| {
            for (users, own) in [(&HERE, 1_u32), (&THERE, 2)] {
                scope.spawn(move || {
                    while !STOP.load(Ordering::Relaxed) {
                        assert!(values(users).into_iter().all(|value| value == own));
                    }
                });
            }
            for _ in 0..20_000 {
                for (users, own) in [(&HERE, 1_u32), (&THERE, 2)] {
                    let mut registration = places.register(own);
                    users.add(&mut registration);
                    places.put(registration.close(|_| ()).1);
                }
            }
            STOP.store(true, Ordering::Relaxed);
        });
        assert_eq!(places.0.len(), 1);
    }
}
