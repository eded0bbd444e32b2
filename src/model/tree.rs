//! Parameter trees: one shape, many kinds of leaf.
//!
//! A model is a tree that is generic over its leaf: a `Spec`, a weight, a gradient that may be absent, an
//! optimizer state. The walk order is fixed, so that everything that goes over all parameters is a zip of leaves.

/// A tree that can be walked leaf by leaf, always in the same order.
pub trait Tree<P> {
    /// The same tree with another kind of leaf.
    type With<Q>: Tree<Q>;
    /// A tree of the same shape whose leaves are made from this one's.
    fn map_leaves<Q>(&self, f: &mut impl FnMut(&P) -> Q) -> Self::With<Q>;
    /// Visits every leaf.
    fn each<'a>(&'a self, f: &mut impl FnMut(&'a P))
    where
        P: 'a;
    /// Visits every leaf for writing.
    fn each_mut<'a>(&'a mut self, f: &mut impl FnMut(&'a mut P))
    where
        P: 'a;

    /// All leaves in walk order.
    fn leaves(&self) -> Vec<&P> {
        let mut all = vec![];
        self.each(&mut |p| all.push(p));
        all
    }
    /// All leaves in walk order, for writing.
    fn leaves_mut(&mut self) -> Vec<&mut P> {
        let mut all = vec![];
        self.each_mut(&mut |p| all.push(p));
        all
    }
    /// The same tree with these leaves, given in walk order.
    ///
    /// # Panics
    /// If there are fewer leaves than places.
    fn with_leaves<Q>(&self, leaves: Vec<Q>) -> Self::With<Q> {
        let mut leaves = leaves.into_iter();
        self.map_leaves(&mut |_| leaves.next().expect("a leaf for every place"))
    }
    /// [`map_leaves`](Self::map_leaves) with a function that can fail; the first error is told.
    fn try_map<Q, E>(&self, f: &mut impl FnMut(&P) -> Result<Q, E>) -> Result<Self::With<Q>, E> {
        Ok(self.with_leaves(self.leaves().into_iter().map(f).collect::<Result<_, _>>()?))
    }
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<P>(pub P);

impl<P> Tree<P> for Leaf<P> {
    type With<Q> = Leaf<Q>;
    fn map_leaves<Q>(&self, f: &mut impl FnMut(&P) -> Q) -> Leaf<Q> {
        Leaf(f(&self.0))
    }
    fn each<'a>(&'a self, f: &mut impl FnMut(&'a P))
    where
        P: 'a,
    {
        f(&self.0);
    }
    fn each_mut<'a>(&'a mut self, f: &mut impl FnMut(&'a mut P))
    where
        P: 'a,
    {
        f(&mut self.0);
    }
}

impl<P, T: Tree<P>> Tree<P> for Option<T> {
    type With<Q> = Option<T::With<Q>>;
    fn map_leaves<Q>(&self, f: &mut impl FnMut(&P) -> Q) -> Option<T::With<Q>> {
        self.as_ref().map(|t| t.map_leaves(f))
    }
    fn each<'a>(&'a self, f: &mut impl FnMut(&'a P))
    where
        P: 'a,
    {
        self.iter().for_each(|t| t.each(f));
    }
    fn each_mut<'a>(&'a mut self, f: &mut impl FnMut(&'a mut P))
    where
        P: 'a,
    {
        self.iter_mut().for_each(|t| t.each_mut(f));
    }
}

impl<P, T: Tree<P>> Tree<P> for Vec<T> {
    type With<Q> = Vec<T::With<Q>>;
    fn map_leaves<Q>(&self, f: &mut impl FnMut(&P) -> Q) -> Vec<T::With<Q>> {
        self.iter().map(|t| t.map_leaves(f)).collect()
    }
    fn each<'a>(&'a self, f: &mut impl FnMut(&'a P))
    where
        P: 'a,
    {
        self.iter().for_each(|t| t.each(f));
    }
    fn each_mut<'a>(&'a mut self, f: &mut impl FnMut(&'a mut P))
    where
        P: 'a,
    {
        self.iter_mut().for_each(|t| t.each_mut(f));
    }
}

/// Declares a node: the fields before `;` are subtrees, those after it plain facts of the model.
macro_rules! tree {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty),* $(; $($(#[$kdoc:meta])* $fact:ident : $fty:ty),*)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name<P> { $($(#[$fdoc])* pub $field: $ty,)* $($($(#[$kdoc])* pub $fact: $fty,)*)? }
        impl<P> Tree<P> for $name<P> {
            type With<Q> = $name<Q>;
            fn map_leaves<Q>(&self, f: &mut impl FnMut(&P) -> Q) -> $name<Q> {
                $name { $($field: Tree::map_leaves(&self.$field, f),)* $($($fact: self.$fact,)*)? }
            }
            fn each<'a>(&'a self, f: &mut impl FnMut(&'a P)) where P: 'a { $(Tree::each(&self.$field, f);)* }
            fn each_mut<'a>(&'a mut self, f: &mut impl FnMut(&'a mut P)) where P: 'a { $(Tree::each_mut(&mut self.$field, f);)* }
        }
    };
}
pub(crate) use tree;
