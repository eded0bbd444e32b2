//! Numbers that come back while the device works on, and moments between which time is told.

use super::queue::{Event, Order, Pinned, Queue};
use crate::backend::BackendError;
use crate::backend::cuda::driver::{Mark, Ptr, Ticket};
use cudarc::driver::sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Room of an ordinary place: a page.
const ROOM: usize = 4096;

/// A place in host memory that the device writes to, and when it had.
struct Place {
    pinned: Pinned,
    there: Event,
    values: usize,
}

pub(super) struct Late {
    queue: Rc<Queue>,
    next: Cell<u64>,
    on_their_way: RefCell<HashMap<u64, Place>>,
    free: RefCell<Vec<Place>>,
    marks: RefCell<Vec<Event>>,
}

impl Late {
    pub fn new(queue: Rc<Queue>) -> Self {
        Self { queue, next: Cell::new(0), on_their_way: RefCell::default(), free: RefCell::default(), marks: RefCell::default() }
    }

    pub fn read_later(&self, src: Ptr, values: usize) -> Result<Ticket, BackendError> {
        self.queue.outside_recording("a read")?;
        let bytes = 4 * values;
        let found = self.free.borrow_mut().pop_if(|place| place.pinned.bytes() >= bytes);
        let mut place = match found {
            Some(place) => place,
            None => Place { pinned: Pinned::new(bytes.max(ROOM))?, there: Event::new()?, values: 0 },
        };
        place.values = values;
        // SAFETY: the place has this room and is read only after `there`; the backend keeps within its buffers.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(place.pinned.at(0).cast(), src, bytes, self.queue.stream()) };
        self.queue.ordered(code, Order::Copy);
        place.there.record(&self.queue);
        self.queue.state()?;
        let ticket = self.next.replace(self.next.get() + 1);
        self.on_their_way.borrow_mut().insert(ticket, place);
        Ok(Ticket(ticket))
    }

    pub fn take(&self, ticket: Ticket) -> Result<Vec<f32>, BackendError> {
        self.queue.state()?;
        let place = self.on_their_way.borrow_mut().remove(&ticket.0).expect("a ticket is given once and taken once");
        self.queue.wait(&place.there)?;
        // SAFETY: the device has written these values and does not touch the place again; it is aligned to a page.
        let values = unsafe { std::slice::from_raw_parts(place.pinned.at(0).cast::<f32>(), place.values) }.to_vec();
        self.free.borrow_mut().push(place);
        Ok(values)
    }

    pub fn mark(&self) -> Result<Mark, BackendError> {
        self.queue.outside_recording("a mark")?;
        let event = Event::new()?;
        event.record(&self.queue);
        self.queue.state()?;
        let mut marks = self.marks.borrow_mut();
        marks.push(event);
        Ok(Mark(marks.len() as u64 - 1))
    }

    pub fn between(&self, from: &Mark, to: &Mark) -> Result<f64, BackendError> {
        let marks = self.marks.borrow();
        let [from, to] = [from, to].map(|mark| &marks[mark.0 as usize]);
        self.queue.wait(to)?;
        from.until(to)
    }
}
