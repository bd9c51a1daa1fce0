//! What numbers lose when they are stored as others.

/// Sums over numbers: relative errors of any set of matrices follow from them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of the squares of the numbers.
    pub squares: f64,
    /// Sum of the squares of what is stored less the number.
    pub squared_errors: f64,
}

impl Loss {
    /// Adds what was lost elsewhere. Sums of f64 depend on their order.
    pub fn add(&mut self, other: &Loss) {
        self.squares += other.squares;
        self.squared_errors += other.squared_errors;
    }

    /// The root of the mean squared error, relative to that of the numbers: 0 where nothing is lost, infinite where
    /// zeros became others.
    pub fn relative_rms(&self) -> f64 {
        if self.squared_errors == 0.0 { 0.0 } else { (self.squared_errors / self.squares).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_rms_is_that_of_all_numbers_together() {
        let mut loss = Loss { squares: 3.0, squared_errors: 1.0 };
        loss.add(&Loss { squares: 1.0, squared_errors: 0.0 });
        assert_eq!(loss.relative_rms(), 0.5);
        assert_eq!(Loss::default().relative_rms(), 0.0);
    }
}
