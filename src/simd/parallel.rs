//! Work cut along outputs, over rayon's current pool.

use rayon::prelude::*;

/// Runs `task(0) .. task(n - 1)`, side by side if `parallel`. Neighbours tend to run one after the other on one
/// thread, so that what they share stays in its cache.
pub fn for_each(n: usize, parallel: bool, task: impl Fn(usize) + Sync + Send) {
    if !parallel || n <= 1 || rayon::current_num_threads() == 1 {
        (0..n).for_each(task);
    } else {
        (0..n).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Below this many elements of plain reading and writing, waking another thread (some 15 us) costs more than it saves.
pub const WORTH: usize = 1 << 16;

/// Elements in one thread's bite of an elementwise kernel: in and out fit L2.
pub const BITE: usize = 1 << 14;

/// One output, written by several tasks in disjoint parts.
#[derive(Debug)]
pub struct Shared<'a, T = f32> {
    start: *mut T,
    len: usize,
    _borrow: std::marker::PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<'_, T> {}

// SAFETY: it is a mutable borrow of what may travel; access goes through unsafe methods.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above; two threads never touch the same element.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Borrows `all`.
    pub fn new(all: &'a mut [T]) -> Self {
        Self { start: all.as_mut_ptr(), len: all.len(), _borrow: std::marker::PhantomData }
    }

    /// Elements `from .. from + len`.
    ///
    /// # Safety
    /// While the slice lives, nobody else may touch these elements.
    ///
    /// # Panics
    /// If they lie outside.
    #[inline(always)]
    #[must_use]
    pub unsafe fn part(self, from: usize, len: usize) -> &'a mut [T] {
        assert!(from <= self.len && len <= self.len - from, "part outside its buffer");
        // SAFETY: within the borrow, as just checked, and nobody else's by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// Columns `from .. from + width` of a matrix of rows of `stride` elements.
    ///
    /// # Safety
    /// While they live, nobody else may touch these columns.
    #[inline(always)]
    #[must_use]
    pub const unsafe fn columns(self, from: usize, width: usize, stride: usize) -> Columns<'a, T> {
        Columns { all: self, from, width, stride }
    }
}

/// Some columns of a matrix, whose other columns may be other tasks'.
#[derive(Debug)]
pub struct Columns<'a, T = f32> {
    all: Shared<'a, T>,
    from: usize,
    width: usize,
    stride: usize,
}

impl<'a, T> Columns<'a, T> {
    /// The first `width` columns of a matrix that is nobody else's.
    pub fn new(all: &'a mut [T], width: usize, stride: usize) -> Self {
        Self { all: Shared::new(all), from: 0, width, stride }
    }

    /// Its part of row `r`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    #[must_use]
    pub fn row(&mut self, r: usize) -> &mut [T] {
        // SAFETY: the columns are this borrow's alone, by the promise given when it was made, or by its exclusive slice.
        unsafe { self.all.part(self.from + r * self.stride, self.width) }
    }
}

/// A reusable working buffer of a thread; freshly taken memory costs a page fault every 1,024 elements.
pub struct Scratch(std::cell::Cell<Vec<f32>>);

impl Scratch {
    /// An empty one, for a `thread_local!`.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::cell::Cell::new(Vec::new()))
    }

    /// Lends at least `len` elements of unspecified values, beginning at a cache line. Within `work` the same
    /// thread may enter again (rayon may hand it another task while it waits): it then gets another buffer.
    pub fn with<T>(&self, len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
        const LINE: usize = 64 / size_of::<f32>();
        let mut all = self.0.take();
        if all.len() < len + LINE {
            all = vec![0.0; len + LINE];
        }
        let from = all.as_ptr().align_offset(64).min(LINE);
        let out = work(&mut all[from..from + len]);
        self.0.set(all);
        out
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
