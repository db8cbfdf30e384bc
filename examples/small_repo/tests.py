"""What durations promises."""

import unittest

from durations import seconds


class Seconds(unittest.TestCase):
    def test_units_are_added_up(self):
        self.assertEqual(seconds("1h5m9s"), 3909)

    def test_numbers_have_several_digits(self):
        self.assertEqual(seconds("90m"), 5400)

    def test_what_is_no_duration_is_refused(self):
        for text in ("", "soon", "10", "m5"):
            with self.assertRaises(ValueError):
                seconds(text)


if __name__ == "__main__":
    unittest.main()
