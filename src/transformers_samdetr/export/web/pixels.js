// Pictures to the model's input: the same numbers as of the package's image processor.
"use strict";

function roundHalfToEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}

/** Height and width in pixels that a picture is resized to; `size` is the image processor's. */
function resizedSize(height, width, size) {
  if (size.height && size.width) return [size.height, size.width];
  const shortest = Math.min(height, width), longest = Math.max(height, width);
  let resized;
  if (size.shortest_edge) {
    let exact = size.shortest_edge, edge = exact;
    if (size.longest_edge && (longest / shortest) * exact > size.longest_edge) {
      exact = (size.longest_edge * shortest) / longest;
      edge = roundHalfToEven(exact);
    }
    const other = edge === shortest ? longest : Math.floor((exact * longest) / shortest);
    resized = width < height ? [other, edge] : [edge, other];
  } else {
    const most = [size.max_height ?? size.longest_edge, size.max_width ?? size.longest_edge];
    const scale = Math.min(most[0] / height, most[1] / width);
    resized = [Math.floor(height * scale), Math.floor(width * scale)];
  }
  return resized.map(side => Math.max(side, 1));
}

/**
 * Where each new pixel begins among the old ones, and its weights: a triangle as wide as a new pixel's neighbours,
 * which is bilinear interpolation with antialiasing. Weights are whole numbers; `2 ** bits` stands for 1.
 */
function bilinearWeights(before, after) {
  const scale = before / after, reach = Math.max(scale, 1), rows = [];
  for (let place = 0; place < after; place++) {
    const center = scale * (place + 0.5);
    const first = Math.max(Math.trunc(center - reach + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach + 0.5), before);
    const weights = [];
    for (let old = first; old < end; old++) {
      weights.push(Math.max(1 - Math.abs((old - center + 0.5) / reach), 0));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    rows.push({ first, weights: weights.map(weight => weight / sum) });
  }
  const largest = Math.max(...rows.map(row => Math.max(...row.weights)));
  let bits = 0;  // as many as 16-bit integers hold
  while (bits < 22 && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < 2 ** 15) bits++;
  for (const row of rows) row.weights = Int16Array.from(row.weights, weight => Math.trunc(0.5 + weight * 2 ** bits));
  return { rows, bits };
}

/** `pixels` are (outer, before, inner) bytes; returns (outer, after, inner). */
function resizeAxis(pixels, outer, before, inner, after) {
  if (before === after) return pixels;
  const { rows, bits } = bilinearWeights(before, after), half = 2 ** (bits - 1);
  const resized = new Uint8ClampedArray(outer * after * inner);
  let place = 0;
  for (let block = 0; block < outer; block++) {
    for (const { first, weights } of rows) {
      const start = (block * before + first) * inner;
      for (let column = 0; column < inner; column++) {
        let sum = half;
        for (let tap = 0, at = start + column; tap < weights.length; tap++, at += inner) sum += weights[tap] * pixels[at];
        resized[place++] = sum >> bits;
      }
    }
  }
  return resized;
}

/**
 * The model's input of one picture. `image` is ImageData, `settings` the image processor's; returns `pixels`
 * (3, height, width), normalised, and `mask` (height, width), 1 on the picture and 0 on padding.
 */
function toInput(image, settings) {
  const size = [image.height, image.width];
  const [rows, columns] = settings.do_resize ? resizedSize(...size, settings.size) : size;
  const narrow = resizeAxis(image.data, image.height, image.width, 4, columns);
  const resized = resizeAxis(narrow, 1, image.height, 4 * columns, rows);

  const padding = settings.do_pad && settings.pad_size?.height ? settings.pad_size : { height: rows, width: columns };
  const { height, width } = padding, area = height * width;
  const factor = settings.do_rescale ? settings.rescale_factor : 1;
  const pixels = new Float32Array(3 * area), mask = new BigInt64Array(area);
  for (let channel = 0; channel < 3; channel++) {
    const mean = settings.do_normalize ? settings.image_mean[channel] : 0;
    const deviation = settings.do_normalize ? settings.image_std[channel] : 1;
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const value = resized[4 * (y * columns + x) + channel];
        pixels[channel * area + y * width + x] = (value * factor - mean) / deviation;
      }
    }
  }
  for (let y = 0; y < rows; y++) mask.fill(1n, y * width, y * width + columns);
  return { pixels, mask, height, width };
}
