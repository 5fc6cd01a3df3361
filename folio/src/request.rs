//! What a caller wants from the page allocator.

use heirloom_kho::Order;

use crate::frame_type::FrameType;
use crate::machine::NodeId;

/// What to allocate: an order, and where, for what, and whether cleared.
///
/// # Examples
/// ```
/// use heirloom_folio::{NodeId, Request};
/// use heirloom_kho::Order;
/// let four_frames = Request::new(Order::new(2).unwrap()).on(NodeId(1)).strict().zeroed();
/// assert_eq!(four_frames.order().get(), 2);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    order: Order,
    kind: FrameType,
    node: Option<NodeId>,
    strict: bool,
    zeroed: bool,
}

impl Request {
    /// Requests a block of `order` from any node, the calling CPU's first, with whatever it contains.
    pub const fn new(order: Order) -> Self {
        Self { order, kind: FrameType::Folio, node: None, strict: false, zeroed: false }
    }

    /// Asks for frames of `node`, or of another if `node` has none left.
    #[must_use]
    pub const fn on(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }

    /// Takes the node named with [`Request::on`] alone.
    #[must_use]
    pub const fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// Asks for frames filled with zeroes.
    #[must_use]
    pub const fn zeroed(self) -> Self {
        Self { zeroed: true, ..self }
    }

    /// Asks for frames for this use, which freeing must name again: what a layer above keeps.
    #[doc(hidden)]
    #[must_use]
    pub const fn frame_type(self, kind: FrameType) -> Self {
        Self { kind, ..self }
    }

    /// Returns the order; for a run, its alignment.
    pub const fn order(self) -> Order {
        self.order
    }

    pub(crate) const fn use_for(self) -> FrameType {
        self.kind
    }

    pub(crate) const fn node(self) -> Option<NodeId> {
        self.node
    }

    pub(crate) const fn only_node(self) -> Option<NodeId> {
        if self.strict { self.node } else { None }
    }

    pub(crate) const fn wants_zeroes(self) -> bool {
        self.zeroed
    }

    /// Returns this request with another order.
    pub(crate) const fn with_order(self, order: Order) -> Self {
        Self { order, ..self }
    }
}
