//! One column of a row group, its values by their positions in a dictionary.
//!
//! For columns whose values repeat, arrow's writer spends most of its time on finding them again. This one looks numbers
//! that lie close together up by their distance, texts by words that up to sixteen bytes are the whole text, and packs a
//! page's positions at once: a third to a half of the time. Pages, statistics and indexes are those that arrow's writer
//! makes; when the dictionary is full, the rest of the column is plain.

use arrow::array::{Array, ArrayRef, AsArray, GenericByteArray, PrimitiveArray};
use arrow::datatypes::*;
use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, EncodingMask, PageType, Type as PhysicalType};
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, LevelHistogram, OffsetIndexBuilder, PageEncodingStats,
};
use parquet::file::properties::{
    DEFAULT_DATA_PAGE_ROW_COUNT_LIMIT, DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT, DEFAULT_PAGE_SIZE,
};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::bounds::Bounds;
use super::indexes;
use super::lookup::{Numbers, Texts};

/// Rows that are looked at before it is asked whether a page or the dictionary is full.
const PIECE: usize = 1024;

pub(super) struct DictionaryColumn {
    descr: ColumnDescPtr,
    codec: Compression,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    dictionary: Dictionary,
    /// The dictionary is full, and values are plain.
    full: bool,
    /// Numbers of a piece.
    numbers: Vec<i64>,
    page: Values,
    pages: Vec<PageWriteSpec>,
    /// Of each page: whether its values are plain, its rows, and the bytes of its texts.
    shapes: Vec<(bool, usize, i64)>,
    data: TrackedWrite<Vec<u8>>,
    index: ColumnIndexBuilder,
    order: Order,
    bounds: Bounds,
    rows: usize,
    nulls: usize,
}

enum Dictionary {
    Numbers(Numbers),
    Texts(Texts),
}

/// What the current page holds.
struct Values {
    positions: Vec<u32>,
    plain: Vec<u8>,
    /// Of each row, 1 where it has a value; empty where the column takes no NULL.
    levels: Vec<u32>,
    rows: usize,
    bounds: Bounds,
    text_bytes: usize,
}

/// Whether bounds of pages only grow, or only fall.
struct Order {
    last: Bounds,
    ascending: bool,
    descending: bool,
}

/// Whether the type's values are what is stored of them, and the codec one that is known here.
pub(super) fn takes(values: &DataType, codec: Compression) -> bool {
    use DataType as D;
    let values = matches!(
        values,
        D::Int8
            | D::Int16
            | D::Int32
            | D::Int64
            | D::UInt8
            | D::UInt16
            | D::UInt32
            | D::Date32
            | D::Timestamp(..)
            | D::Decimal128(..=18, _)
            | D::Utf8
            | D::Binary
    );
    values && matches!(codec, Compression::UNCOMPRESSED | Compression::ZSTD(_))
}

impl DictionaryColumn {
    pub(super) fn new(descr: ColumnDescPtr, codec: Compression) -> Result<Self> {
        let compressor = match codec {
            Compression::ZSTD(level) => Some(zstd::bulk::Compressor::new(level.compression_level())?),
            _ => None,
        };
        let is_text = descr.physical_type() == PhysicalType::BYTE_ARRAY;
        let (dictionary, bounds) = match is_text {
            true => (Dictionary::Texts(Texts::new()), Bounds::Texts(None)),
            false => (Dictionary::Numbers(Numbers::new()), Bounds::Numbers(None)),
        };
        Ok(Self {
            codec,
            compressor,
            dictionary,
            full: false,
            numbers: Vec::with_capacity(PIECE),
            page: Values {
                positions: Vec::new(),
                plain: Vec::new(),
                levels: Vec::new(),
                rows: 0,
                bounds: bounds.clone(),
                text_bytes: 0,
            },
            pages: Vec::new(),
            shapes: Vec::new(),
            data: TrackedWrite::new(Vec::new()),
            index: ColumnIndexBuilder::new(descr.physical_type()),
            order: Order { last: bounds.clone(), ascending: true, descending: true },
            bounds,
            rows: 0,
            nulls: 0,
            descr,
        })
    }

    /// Bytes that the column takes up to now, as far as they are known.
    pub(super) fn size(&self) -> usize {
        let width = indexes::width(self.dictionary.len()) as usize;
        self.data.bytes_written()
            + self.dictionary.size(self.width())
            + self.page.positions.len() * width / 8
            + self.page.plain.len()
    }

    pub(super) fn write(&mut self, column: &ArrayRef) -> Result<()> {
        let mut at = 0;
        while at < column.len() {
            let rows = (column.len() - at).min(PIECE).min(DEFAULT_DATA_PAGE_ROW_COUNT_LIMIT - self.page.rows);
            self.add(&column.slice(at, rows))?;
            at += rows;
            if !self.full && self.dictionary.size(self.width()) > DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT {
                self.end_page()?;
                self.full = true;
            } else if self.page.rows == DEFAULT_DATA_PAGE_ROW_COUNT_LIMIT || self.page.plain.len() >= DEFAULT_PAGE_SIZE
            {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Bytes of a number; nothing of a text.
    fn width(&self) -> usize {
        match self.descr.physical_type() {
            PhysicalType::INT32 => 4,
            PhysicalType::INT64 => 8,
            _ => 0,
        }
    }

    fn add(&mut self, piece: &ArrayRef) -> Result<()> {
        let nulls = piece.nulls().filter(|nulls| nulls.null_count() > 0);
        match nulls {
            _ if self.descr.max_def_level() == 0 => {
                if nulls.is_some() {
                    return Err(ParquetError::General(format!("a NULL in {:?}, which takes none", self.descr.name())));
                }
            }
            Some(nulls) => self.page.levels.extend(nulls.iter().map(u32::from)),
            None => self.page.levels.resize(self.page.levels.len() + piece.len(), 1),
        }
        self.page.rows += piece.len();
        self.nulls += piece.null_count();
        use DataType as D;
        let width = self.width();
        let numbers = &mut self.numbers;
        numbers.clear();
        match piece.data_type() {
            D::Utf8 => self.texts(piece.as_string::<i32>()),
            D::Binary => self.texts(piece.as_binary::<i32>()),
            other => {
                match other {
                    D::Int8 => take(piece.as_primitive::<Int8Type>(), numbers, i64::from),
                    D::Int16 => take(piece.as_primitive::<Int16Type>(), numbers, i64::from),
                    D::Int32 => take(piece.as_primitive::<Int32Type>(), numbers, i64::from),
                    D::Int64 => take(piece.as_primitive::<Int64Type>(), numbers, |number| number),
                    D::UInt8 => take(piece.as_primitive::<UInt8Type>(), numbers, i64::from),
                    D::UInt16 => take(piece.as_primitive::<UInt16Type>(), numbers, i64::from),
                    D::UInt32 => take(piece.as_primitive::<UInt32Type>(), numbers, i64::from),
                    D::Date32 => take(piece.as_primitive::<Date32Type>(), numbers, i64::from),
                    D::Timestamp(TimeUnit::Second, _) => {
                        take(piece.as_primitive::<TimestampSecondType>(), numbers, |number| number)
                    }
                    D::Timestamp(TimeUnit::Millisecond, _) => {
                        take(piece.as_primitive::<TimestampMillisecondType>(), numbers, |number| number)
                    }
                    D::Timestamp(TimeUnit::Microsecond, _) => {
                        take(piece.as_primitive::<TimestampMicrosecondType>(), numbers, |number| number)
                    }
                    D::Timestamp(TimeUnit::Nanosecond, _) => {
                        take(piece.as_primitive::<TimestampNanosecondType>(), numbers, |number| number)
                    }
                    D::Decimal128(..) => take(piece.as_primitive::<Decimal128Type>(), numbers, |number| number as i64),
                    other => return Err(ParquetError::General(format!("{other} has no dictionary of ours"))),
                }
                if let Some((least, greatest)) = numbers.iter().min().zip(numbers.iter().max()) {
                    self.page.bounds.hold_number(*least);
                    self.page.bounds.hold_number(*greatest);
                }
                match &mut self.dictionary {
                    Dictionary::Numbers(dictionary) if !self.full => dictionary.find(numbers, &mut self.page.positions),
                    _ => plain(numbers, width, &mut self.page.plain),
                }
            }
        }
        Ok(())
    }

    fn texts<T: ByteArrayType<Offset = i32>>(&mut self, texts: &GenericByteArray<T>) {
        let (page, bytes) = (&mut self.page, texts.value_data());
        let number = self.pages.len() as u32;
        for (row, ends) in texts.value_offsets().windows(2).enumerate() {
            if texts.is_null(row) {
                continue;
            }
            let (begin, end) = (ends[0] as usize, ends[1] as usize);
            let text = &bytes[begin..end];
            page.text_bytes += text.len();
            match &mut self.dictionary {
                Dictionary::Texts(dictionary) if !self.full => {
                    let (position, is_first) = dictionary.find(bytes, begin, end, number);
                    page.positions.push(position);
                    if is_first {
                        page.bounds.hold_text(text);
                    }
                }
                _ => {
                    page.plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
                    page.plain.extend_from_slice(text);
                    page.bounds.hold_text(text);
                }
            }
        }
    }

    fn end_page(&mut self) -> Result<()> {
        if self.page.rows == 0 {
            return Ok(());
        }
        let mut buffer = Vec::new();
        if self.descr.max_def_level() > 0 {
            buffer.extend_from_slice(&[0; 4]);
            indexes::encode(&self.page.levels, 1, &mut buffer);
            let length = buffer.len() as u32 - 4;
            buffer[..4].copy_from_slice(&length.to_le_bytes());
        }
        match self.full {
            true => buffer.append(&mut self.page.plain),
            false => {
                let width = indexes::width(self.dictionary.len());
                buffer.push(width as u8);
                indexes::encode(&self.page.positions, width, &mut buffer);
            }
        }
        let present: usize = self.page.levels.iter().map(|level| *level as usize).sum();
        let nulls = if self.descr.max_def_level() > 0 { self.page.rows - present } else { 0 };
        let levels = levels(self.page.rows, nulls, &self.descr);
        let uncompressed = buffer.len();
        let page = Page::DataPage {
            buf: self.packed(buffer)?,
            num_values: self.page.rows as u32,
            encoding: if self.full { Encoding::PLAIN } else { Encoding::RLE_DICTIONARY },
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let written = SerializedPageWriter::new(&mut self.data).write_page(CompressedPage::new(page, uncompressed))?;
        self.pages.push(written);
        self.shapes.push((self.full, self.page.rows, self.page.text_bytes as i64));
        let bounds = std::mem::replace(&mut self.page.bounds, self.bounds.none());
        let (least, greatest) = bounds.bytes(&self.descr);
        self.index.append(nulls == self.page.rows, least.0, greatest.0, nulls as i64);
        self.index.append_histograms(&None, &levels);
        if !bounds.is_none() {
            self.order.next(&bounds);
            self.bounds.hold(&bounds);
        }
        self.rows += self.page.rows;
        self.page.rows = 0;
        self.page.text_bytes = 0;
        self.page.positions.clear();
        self.page.levels.clear();
        Ok(())
    }

    fn packed(&mut self, buffer: Vec<u8>) -> Result<Bytes> {
        Ok(match &mut self.compressor {
            Some(compressor) => compressor.compress(&buffer)?.into(),
            None => buffer.into(),
        })
    }

    /// The dictionary and the pages behind it, and what is to be said of them.
    pub(super) fn close(mut self) -> Result<(Bytes, ColumnCloseResult)> {
        self.end_page()?;
        let dictionary = self.dictionary.plain(self.width());
        let uncompressed = dictionary.len();
        let dictionary = Page::DictionaryPage {
            buf: self.packed(dictionary)?,
            num_values: self.dictionary.len() as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let mut chunk = TrackedWrite::new(Vec::with_capacity(uncompressed + 64 + self.data.bytes_written()));
        let written =
            SerializedPageWriter::new(&mut chunk).write_page(CompressedPage::new(dictionary, uncompressed))?;
        let head = chunk.bytes_written() as i64;
        let mut chunk = chunk.into_inner()?;
        chunk.append(&mut self.data.into_inner()?);

        let is_text = self.descr.physical_type() == PhysicalType::BYTE_ARRAY;
        let mut offsets = OffsetIndexBuilder::new();
        let mut stats =
            vec![PageEncodingStats { page_type: PageType::DICTIONARY_PAGE, encoding: Encoding::PLAIN, count: 1 }];
        let mut encodings = vec![Encoding::PLAIN, Encoding::RLE];
        for (page, (is_plain, rows, text_bytes)) in self.pages.iter().zip(&self.shapes) {
            offsets.append_offset_and_size(page.offset as i64 + head, page.compressed_size as i32);
            offsets.append_row_count(*rows as i64);
            offsets.append_unencoded_byte_array_data_bytes(is_text.then_some(*text_bytes));
            let encoding = if *is_plain { Encoding::PLAIN } else { Encoding::RLE_DICTIONARY };
            match stats.last_mut().filter(|last| last.page_type == PageType::DATA_PAGE && last.encoding == encoding) {
                Some(last) => last.count += 1,
                None => stats.push(PageEncodingStats { page_type: PageType::DATA_PAGE, encoding, count: 1 }),
            }
            encodings.push(encoding);
        }
        self.index.set_boundary_order(self.order.boundary());
        let uncompressed: usize = self.pages.iter().map(|page| page.uncompressed_size).sum();
        let text_bytes = self.shapes.iter().map(|(_, _, bytes)| bytes).sum();
        let metadata = ColumnChunkMetaData::builder(self.descr.clone())
            .set_compression(self.codec)
            .set_encodings_mask(EncodingMask::new_from_encodings(encodings.iter()))
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(chunk.len() as i64)
            .set_total_uncompressed_size((uncompressed + written.uncompressed_size) as i64)
            .set_num_values(self.rows as i64)
            .set_dictionary_page_offset(Some(0))
            .set_data_page_offset(head)
            .set_statistics(statistics(&self.bounds, &self.descr, self.nulls as u64))
            .set_unencoded_byte_array_data_bytes(is_text.then_some(text_bytes))
            .set_definition_level_histogram(levels(self.rows, self.nulls, &self.descr))
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: chunk.len() as u64,
            rows_written: self.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: Some(self.index.build()?),
            offset_index: Some(offsets.build()),
        };
        Ok((chunk.into(), close))
    }
}

impl Dictionary {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.values().len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// Bytes of its page. `width` is that of a number.
    fn size(&self, width: usize) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.values().len() * width,
            Self::Texts(texts) => texts.size() + texts.len() * 4,
        }
    }

    fn plain(&self, width: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size(width));
        match self {
            Self::Numbers(numbers) => plain(numbers.values(), width, &mut bytes),
            Self::Texts(texts) => {
                for text in (0..texts.len()).map(|position| texts.get(position)) {
                    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
                    bytes.extend_from_slice(text);
                }
            }
        }
        bytes
    }
}

impl Order {
    fn next(&mut self, bounds: &Bounds) {
        if !self.last.is_none() {
            self.ascending &= !self.last.is_above(bounds);
            self.descending &= !bounds.is_above(&self.last);
        }
        self.last = bounds.clone();
    }

    fn boundary(&self) -> BoundaryOrder {
        match (self.ascending, self.descending) {
            (true, _) => BoundaryOrder::ASCENDING,
            (false, true) => BoundaryOrder::DESCENDING,
            (false, false) => BoundaryOrder::UNORDERED,
        }
    }
}

fn take<T: ArrowPrimitiveType>(from: &PrimitiveArray<T>, numbers: &mut Vec<i64>, stored: impl Fn(T::Native) -> i64) {
    match from.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => numbers.extend(from.values().iter().map(|value| stored(*value))),
        Some(nulls) => numbers.extend(nulls.valid_indices().map(|row| stored(from.values()[row]))),
    }
}

/// Numbers of four or eight bytes.
fn plain(numbers: &[i64], width: usize, into: &mut Vec<u8>) {
    match width {
        4 => into.extend(numbers.iter().flat_map(|number| (*number as i32).to_le_bytes())),
        _ => into.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
    }
}

/// How many rows have no value, and how many have one.
fn levels(rows: usize, nulls: usize, descr: &ColumnDescPtr) -> Option<LevelHistogram> {
    let mut levels = LevelHistogram::try_new(descr.max_def_level())?;
    levels.increment_by(0, nulls as i64);
    levels.increment_by(1, (rows - nulls) as i64);
    Some(levels)
}

fn statistics(bounds: &Bounds, descr: &ColumnDescPtr, nulls: u64) -> Statistics {
    let signed = descr.sort_order().is_signed();
    match bounds {
        Bounds::Numbers(bounds) if descr.physical_type() == PhysicalType::INT32 => {
            let (least, greatest) = (bounds.map(|b| b.0 as i32), bounds.map(|b| b.1 as i32));
            ValueStatistics::new(least, greatest, None, Some(nulls), false)
                .with_backwards_compatible_min_max(signed)
                .into()
        }
        Bounds::Numbers(bounds) => {
            let (least, greatest) = (bounds.map(|b| b.0), bounds.map(|b| b.1));
            ValueStatistics::new(least, greatest, None, Some(nulls), false)
                .with_backwards_compatible_min_max(signed)
                .into()
        }
        Bounds::Texts(None) => ValueStatistics::<ByteArray>::new(None, None, None, Some(nulls), false)
            .with_backwards_compatible_min_max(signed)
            .into(),
        Bounds::Texts(Some(_)) => {
            let ((least, least_exact), (greatest, greatest_exact)) = bounds.bytes(descr);
            ValueStatistics::<ByteArray>::new(Some(least.into()), Some(greatest.into()), None, Some(nulls), signed)
                .with_min_is_exact(least_exact)
                .with_max_is_exact(greatest_exact)
                .into()
        }
    }
}
