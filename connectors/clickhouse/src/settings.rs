//! What the meaning of an answer depends on: settings that statements have, whatever a connection or a profile of the
//! server says, and virtual columns.

/// Of every statement. A limit that is reached is an error and never a shorter answer.
pub(crate) const WHOLE: &[(&str, &str)] = &[
    ("limit", "0"),
    ("offset", "0"),
    ("result_overflow_mode", "throw"),
    ("read_overflow_mode", "throw"),
    ("read_overflow_mode_leaf", "throw"),
    ("timeout_overflow_mode", "throw"),
    ("timeout_overflow_mode_leaf", "throw"),
    ("set_overflow_mode", "throw"),
    ("join_overflow_mode", "throw"),
    ("distinct_overflow_mode", "throw"),
    ("group_by_overflow_mode", "throw"),
    ("sort_overflow_mode", "throw"),
    ("transfer_overflow_mode", "throw"),
];

/// Of the statements of a sink, which are all ours: the server's own defaults. A query of somebody's may count on others.
pub(crate) const OURS: &[(&str, &str)] = &[
    ("final", "0"),
    ("additional_result_filter", ""),
    ("additional_table_filters", "{}"),
    ("aggregate_functions_null_for_empty", "0"),
    ("apply_deleted_mask", "1"),
    ("cast_keep_nullable", "0"),
    ("group_by_use_nulls", "0"),
    ("join_use_nulls", "0"),
    ("prefer_column_name_to_alias", "0"),
    ("transform_null_in", "0"),
];

/// Of every read: how values look that are read as text (JSON, maps, tuples), whatever a version's defaults are.
pub(crate) const TEXTS: &[(&str, &str)] = &[
    ("output_format_json_quote_64bit_integers", "0"),
    ("output_format_json_quote_64bit_floats", "0"),
    ("output_format_json_quote_decimals", "0"),
    ("output_format_json_quote_denormals", "0"),
    ("output_format_json_escape_forward_slashes", "1"),
    ("output_format_decimal_trailing_zeros", "0"),
    ("date_time_output_format", "simple"),
    ("bool_true_representation", "true"),
    ("bool_false_representation", "false"),
];

/// Besides [`WHOLE`], what a connection cannot set: rows that a query does not mention would be missing, or there.
pub(crate) const FILTERS: &[&str] = &["additional_result_filter", "additional_table_filters", "apply_deleted_mask"];

/// Virtual columns that we ask for. A column of a table that has such a name hides them.
pub(crate) const VIRTUAL: &[&str] = &["_part", "_partition_id"];
