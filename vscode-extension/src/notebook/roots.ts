import { realpathSync } from "node:fs";
import { basename, dirname, join, relative, sep } from "node:path";

/** A notebook's place: the folder whose server has it, and its path there, with `/`. */
export interface Place {
  readonly root: string;
  readonly path: string;
}

/** The real path of what exists; of what does not yet, that of its folder. */
export function realPath(path: string): string {
  try {
    return realpathSync.native(path);
  } catch {
    const folder = dirname(path);
    return folder === path ? path : join(realPath(folder), basename(path));
  }
}

/** The innermost of the folders that hold the file, else the file's own folder; by real paths. */
export function placeOf(file: string, folders: readonly string[], real: (path: string) => string = realPath): Place {
  const target = real(file);
  const holding = folders.map(real).filter((folder) => isInside(folder, target));
  const root = holding.sort((one, other) => other.length - one.length)[0] ?? dirname(target);
  return { root, path: relative(root, target).split(sep).join("/") };
}

/** A file or folder that is moved, by its paths. */
export interface FileMove {
  readonly from: string;
  readonly to: string;
}

/** Where a file is after these were moved; undefined if neither it nor a folder above it was. */
export function movedTo(file: string, moved: readonly FileMove[]): string | undefined {
  const one = moved.find(({ from }) => file === from || isInside(from, file));
  return one === undefined ? undefined : one.to + file.slice(one.from.length);
}

function isInside(folder: string, path: string): boolean {
  return path.startsWith(folder.endsWith(sep) ? folder : folder + sep);
}
