//! What the router of experts needs besides products, over the lanes of [`super::lanes`].

use super::lanes::{LaneOp, exp, multiply_add, reduce};

/// The softmax of a row, in place: `e^(x - max) / sum`. NaN anywhere makes all of it NaN.
pub struct Softmax<'a>(pub &'a mut [f32]);

impl LaneOp for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let max = self.0.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        self.0.iter_mut().for_each(|x| *x = exp::<FUSED>(*x - max));
        let sum = reduce(self.0, |sum, x| sum + x);
        self.0.iter_mut().for_each(|x| *x /= sum);
    }
}

/// `sum += factor * x`, in one rounding each.
pub struct AddScaled<'a> {
    /// `[width]`
    pub sum: &'a mut [f32],
    /// `[width]`
    pub x: &'a [f32],
    /// Factor on `x`.
    pub factor: f32,
}

impl LaneOp for AddScaled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let factor = self.factor;
        for (sum, x) in self.sum.iter_mut().zip(self.x) {
            *sum = multiply_add::<FUSED>(factor, *x, *sum);
        }
    }
}
